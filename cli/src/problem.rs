//! Refusals of the server (RFC 9457) and other errors, as people read them.

use std::error::Error;
use std::fmt;

use serde::Deserialize;

/// The server's answer when it does not do what it was asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Problem {
    pub(crate) status: u16,
    pub(crate) title: String,
    pub(crate) detail: String,
    pub(crate) errors: Vec<ProblemError>,
    /// `urn:tombolo:request:ID`
    pub(crate) instance: String,
    /// `urn:tombolo:problem:WORD`
    pub(crate) r#type: String,
}

/// One of the things that are wrong.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ProblemError {
    /// The resource, where the request holds several.
    pub(crate) resource: String,
    /// Where in the document.
    pub(crate) pointer: String,
    pub(crate) detail: String,
}

impl Problem {
    /// Whatever it is that came with an unsuccessful status.
    pub(crate) fn from_answer(status: hyper::StatusCode, body: &[u8]) -> Problem {
        let mut problem: Problem = serde_json::from_slice(body).unwrap_or_else(|_| Problem {
            // Not ours: a load balancer's page, or another server on this port.
            detail: String::from_utf8_lossy(body).chars().take(300).collect(),
            ..Problem::default()
        });
        problem.status = status.as_u16();
        if problem.title.is_empty() {
            problem.title = status.canonical_reason().unwrap_or("unknown status").to_owned();
        }
        problem
    }

    /// Says which document an error is about, where its pointer only gives the document's number in the request.
    pub(crate) fn locate(mut self, sources: &[String]) -> Problem {
        for error in &mut self.errors {
            let Some((number, rest)) = split_number(&error.pointer) else {
                continue;
            };
            if let Some(source) = sources.get(number) {
                error.pointer = format!("{source} {rest}").trim_end().to_owned();
            }
        }
        self
    }

    fn advice(&self) -> Option<&'static str> {
        Some(
            match (self.status, self.r#type.rsplit(':').next().unwrap_or_default()) {
                (412, "plan-moved") => "look at what `tombolo plan` says now, and apply that plan",
                (409, "confirm") => {
                    "look at it with --dry-run; if it is meant, send it again with --confirm PLAN (apply: --plan PLAN)"
                }
                (401, _) => {
                    "give a token with TOMBOLO_TOKEN or --token-file, or a service account's key with --key-file"
                }
                (403, _) => "ask an administrator for a role on that node, or use another token",
                (412, _) => "somebody else changed it meanwhile: `tombolo get` it again, or use --overwrite",
                (428, _) => "keep the `etag` of `tombolo get -o yaml` in the document, or use --overwrite",
                (503, _) => "the server cannot reach its database: nothing was changed, try again",
                _ => return None,
            },
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.title)?;
        // The detail of several errors often is all of them in one line.
        let is_repeated = !self.errors.is_empty()
            && self
                .errors
                .iter()
                .all(|error| self.detail.contains(&error.detail));
        if !self.detail.is_empty() && !is_repeated {
            write!(f, ": {}", self.detail.trim_end())?;
        }
        for error in &self.errors {
            write!(f, "\n  - {error}")?;
        }
        if let Some(advice) = self.advice() {
            write!(f, "\n  what to do: {advice}")?;
        }
        if let Some(id) = self.instance.strip_prefix("urn:tombolo:request:") {
            write!(f, "\n  request: {id}")?;
        }
        Ok(())
    }
}

impl Error for Problem {}

impl fmt::Display for ProblemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place: Vec<&str> = [self.resource.as_str(), self.pointer.as_str()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        if !place.is_empty() {
            write!(f, "{}: ", place.join(" "))?;
        }
        // The server's own sentence often starts with the resource.
        let detail = self.detail.strip_prefix(&format!("{}: ", self.resource));
        f.write_str(detail.unwrap_or(&self.detail))
    }
}

/// `/3/spec/rules` → 3 and `/spec/rules`.
fn split_number(pointer: &str) -> Option<(usize, &str)> {
    let pointer = pointer.strip_prefix('/')?;
    let end = pointer.find('/').unwrap_or(pointer.len());
    Some((pointer[..end].parse().ok()?, &pointer[end..]))
}

/// An error with its causes, one per line.
pub(crate) fn report(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}\n");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Several crates repeat their source in their own Display.
        if !last.ends_with(&cause) {
            text.push_str(&format!("  because: {cause}\n"));
            last = cause;
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    fn shown(status: u16, body: &str) -> String {
        Problem::from_answer(StatusCode::from_u16(status).unwrap(), body.as_bytes()).to_string()
    }

    #[test]
    fn problems_say_what_is_wrong_where_and_what_to_do() {
        for (status, body, expected) in [
            (
                422,
                r#"{"title":"invalid","status":422,"detail":"2 errors","instance":"urn:tombolo:request:r-1","errors":[
                    {"resource":"organizations/acme/tenants/a","pointer":"/spec/x","detail":"unknown field `x`"},
                    {"detail":"organizations/acme is missing"}]}"#,
                "422 invalid: 2 errors\n  - organizations/acme/tenants/a /spec/x: unknown field `x`\n  \
                 - organizations/acme is missing\n  request: r-1",
            ),
            (
                428,
                r#"{"title":"precondition required","detail":"a exists"}"#,
                "428 precondition required: a exists\n  what to do: keep the `etag` of `tombolo get -o yaml` in \
                 the document, or use --overwrite",
            ),
            (
                412,
                r#"{"title":"Precondition Failed","type":"urn:tombolo:problem:plan-moved","detail":"the plan is stale"}"#,
                "412 Precondition Failed: the plan is stale\n  what to do: look at what `tombolo plan` says now, and \
                 apply that plan",
            ),
            (
                502,
                "<html>bad gateway</html>",
                "502 Bad Gateway: <html>bad gateway</html>",
            ),
            (
                400,
                r#"{"title":"bad","detail":"x is bad","errors":[{"detail":"x is bad"}]}"#,
                "400 bad\n  - x is bad",
            ),
            (404, "", "404 Not Found"),
        ] {
            assert_eq!(shown(status, body), expected);
        }
    }

    #[test]
    fn errors_are_located_in_their_files() {
        let body = r#"{"title":"Bad Request","errors":[
            {"pointer":"/1/spec/x","detail":"unknown"}, {"pointer":"/0","detail":"no object"},
            {"pointer":"/spec","detail":"as it is"}, {"pointer":"/9","detail":"beyond"}]}"#;
        let problem = Problem::from_answer(StatusCode::BAD_REQUEST, body.as_bytes());
        let sources = ["a.yaml".to_owned(), "b.yaml document 2".to_owned()];
        assert_eq!(
            problem.locate(&sources).to_string(),
            "400 Bad Request\n  - b.yaml document 2 /spec/x: unknown\n  - a.yaml: no object\n  - /spec: as it is\n  \
             - /9: beyond"
        );
    }

    #[test]
    fn causes_follow_their_error_once() {
        let error = anyhow::anyhow!("no route")
            .context("connect: no route")
            .context("get a");
        assert_eq!(report(&error), "error: get a\n  because: connect: no route\n");
    }
}
