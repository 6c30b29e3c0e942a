//! `GET /v1/audit:export`: the record as a file, one chain after the other, oldest first. It is read in stretches and
//! sent as they are read, so that its size does not matter; and it goes on where an earlier one ended.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use futures::{Stream, stream};
use serde::Deserialize;

use super::super::{App, Params};
use super::{Reader, Wanted, boundary, csv};
use crate::audit::{Chain, Line, StatementKind, now, record_line};
use crate::caller::Caller;
use crate::iam::Principal;
use crate::problem::Problem;
use crate::store::Tx;
use crate::store::audit::{Filter, Listed, Stretch};
use crate::writer::WriteError;

/// How many records there are, so that a caller can tell how far it has come. Not known under a filter.
const RECORDS: HeaderName = HeaderName::from_static("x-tombolo-records");
/// Of a stretch, in records.
const STRETCH_MAX: u64 = 1000;
/// Of a stretch, about: after one that was larger the next ones are shorter.
const STRETCH_BYTES: usize = 4 * 1024 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    #[default]
    Jsonl,
    Csv,
}

/// What is exported, and for whom.
struct Plan {
    app: App,
    caller: Caller,
    filter: Filter,
    format: Format,
    /// Nothing is left out.
    is_complete: bool,
    /// The rest of each chain when it began.
    stretches: Vec<Stretch>,
}

/// Where an export is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Begin,
    /// Behind that record of the stretch with that number; the next read is that long.
    Records {
        chain: usize,
        reached: u64,
        length: u64,
    },
    End,
    Over,
}

pub(crate) async fn export(
    State(app): State<App>,
    caller: Caller,
    Params(wanted): Params<Wanted>,
) -> Result<Response, Problem> {
    wanted.has_none_of(&[
        ("pageSize", wanted.page_size.is_some()),
        ("pageToken", wanted.page_token.is_some()),
    ])?;
    let reader = Reader::of(&app, &caller);
    let filter = wanted.filter(&reader)?;
    let is_complete = reader.may_read_all_of(&app.organization) && filter.lets_all_through();
    let after = wanted.after.as_deref().map(resumed).transpose()?;
    let mut tx = app.store.read_as(&Principal::System).await?;
    let heads = [
        (Chain::Writes, app.store.head(&mut tx).await?.audit.sequence),
        (Chain::Denials, app.store.denial_head(&mut tx).await?.sequence),
    ];
    let kept = boundary(&app, &mut tx).await?.map(|(_, statement)| statement);
    let begins = |chain| kept.as_ref().map_or(0, |kept| kept.mark(chain).sequence);
    let records: u64 = heads
        .iter()
        .map(|(chain, head)| head.saturating_sub(begins(*chain)))
        .sum();
    let stretches = heads
        .iter()
        .map(|&(chain, until)| Stretch {
            chain,
            after: match after {
                Some((at, sequence)) if at == chain => sequence,
                Some((at, _)) if at > chain => until,
                _ => begins(chain),
            },
            until,
        })
        .collect();
    let format = wanted.format.unwrap_or_default();
    let plan = Plan {
        app,
        caller,
        filter,
        format,
        is_complete,
        stretches,
    };
    let stage = match after {
        None => Stage::Begin,
        Some(_) => plan.chain(0),
    };
    let mut response = Body::from_stream(lines(plan, stage)).into_response();
    let media_type = match format {
        Format::Jsonl => "application/jsonl",
        Format::Csv => "text/csv; charset=utf-8",
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    if is_complete {
        headers.insert(RECORDS, records.into());
    }
    Ok(response)
}

/// An error ends it early, which the missing last line shows.
fn lines(plan: Plan, stage: Stage) -> impl Stream<Item = Result<Bytes, Broken>> + Send + 'static {
    stream::try_unfold((plan, stage), |(plan, stage)| async move {
        let (lines, next) = match stage {
            Stage::Begin => (plan.begin().await?, plan.chain(0)),
            Stage::Records {
                chain,
                reached,
                length,
            } => plan.records(chain, reached, length).await?,
            Stage::End => (plan.end().await?, Stage::Over),
            Stage::Over => return Ok(None),
        };
        Ok(Some((lines, (plan, next))))
    })
}

/// Why an export broke off. Whoever asked sees the connection end; the log says why.
#[derive(Debug, thiserror::Error)]
#[error("the export broke off: {0}")]
struct Broken(String);

impl From<Problem> for Broken {
    fn from(problem: Problem) -> Broken {
        Broken(problem.detail)
    }
}

impl From<crate::store::StoreError> for Broken {
    fn from(error: crate::store::StoreError) -> Broken {
        Problem::from(error).into()
    }
}

impl Plan {
    /// The stage that begins the stretch with that number.
    fn chain(&self, chain: usize) -> Stage {
        self.stretches
            .get(chain)
            .map_or(Stage::End, |stretch| Stage::Records {
                chain,
                reached: stretch.after,
                length: STRETCH_MAX,
            })
    }

    async fn records(&self, chain: usize, reached: u64, length: u64) -> Result<(Bytes, Stage), Broken> {
        let whole = self.stretches[chain];
        if reached >= whole.until {
            return Ok((Bytes::new(), self.chain(chain + 1)));
        }
        let stretch = Stretch {
            after: reached,
            until: whole.until.min(reached + length),
            ..whole
        };
        let listed = self.read(stretch).await?;
        let bytes: usize = listed.iter().map(|listed| listed.bytes.len()).sum();
        let next = Stage::Records {
            chain,
            reached: stretch.until,
            length: next_length(length, bytes),
        };
        let lines: Vec<u8> = listed.iter().flat_map(|listed| self.line(listed)).collect();
        Ok((lines.into(), next))
    }

    async fn begin(&self) -> Result<Bytes, Broken> {
        if self.format == Format::Csv {
            return Ok(csv::header().into());
        }
        let first = Line::Export {
            organization: self.app.organization.leaf().to_owned(),
            time: now(),
            complete: self.is_complete,
        };
        let mut lines = first.to_bytes();
        let mut tx = self.app.store.read_as(&Principal::System).await?;
        if let Some((boundary, _)) = boundary(&self.app, &mut tx).await?
            && self.is_complete
        {
            lines.extend(Line::Boundary(boundary.signed).to_bytes());
        }
        Ok(lines.into())
    }

    async fn read(&self, stretch: Stretch) -> Result<Vec<Listed>, Broken> {
        let mut tx = self.app.store.read_as(&self.caller.principal).await?;
        let reader = self.reader_now(&mut tx).await?;
        let filter = Filter {
            nodes: reader.nodes.clone(),
            ..self.filter.clone()
        };
        let mut listed = self.app.store.audit_stretch(&mut tx, &filter, stretch).await?;
        listed.retain(|listed| reader.may_read(listed));
        if self.is_complete && listed.len() as u64 != stretch.until - stretch.after {
            tracing::warn!(chain = %stretch.chain, after = stretch.after, "records are missing from an export: verify it");
        }
        Ok(listed)
    }

    /// What its reader may still read: that may become less while a long export goes on.
    async fn reader_now(&self, tx: &mut Tx) -> Result<Reader, Broken> {
        let caller = Caller {
            time: now(),
            ..self.caller.clone()
        };
        if let Some(credential) = caller.credential
            && (credential.is_over(caller.time) || !self.app.store.is_unrevoked(tx, credential.id).await?)
        {
            return Err(Broken(WriteError::Revoked.to_string()));
        }
        let reader = Reader::of(&self.app, &caller);
        if self.is_complete && !reader.may_read_all_of(&self.app.organization) {
            return Err(Broken(
                "its reader may not read all of the record any more".to_owned(),
            ));
        }
        Ok(reader)
    }

    fn line(&self, listed: &Listed) -> Vec<u8> {
        match self.format {
            Format::Csv => csv::row(listed),
            Format::Jsonl => {
                let place = &listed.place;
                record_line(place.chain, place.sequence, &listed.hash, &listed.bytes)
            }
        }
    }

    async fn end(&self) -> Result<Bytes, Broken> {
        if self.format == Format::Csv {
            return Ok(Bytes::new());
        }
        let until = |wanted| {
            let chain = self.stretches.iter().find(|stretch| stretch.chain == wanted);
            chain.map_or(0, |stretch| stretch.until)
        };
        let mut lines = Vec::new();
        let mut tx = self.app.store.read_as(&Principal::System).await?;
        let last = self
            .app
            .store
            .last_statement_within(
                &mut tx,
                StatementKind::Checkpoint,
                until(Chain::Writes),
                until(Chain::Denials),
            )
            .await?;
        if let Some(last) = last.filter(|_| self.is_complete) {
            lines.extend(Line::Checkpoint(last.signed).to_bytes());
        }
        let end = Line::End {
            writes: until(Chain::Writes),
            denials: until(Chain::Denials),
        };
        lines.extend(end.to_bytes());
        Ok(lines.into())
    }
}

/// So that large records make short stretches, and small ones long again.
fn next_length(length: u64, bytes: usize) -> u64 {
    if bytes > STRETCH_BYTES {
        (length / 2).max(1)
    } else {
        (length * 2).min(STRETCH_MAX)
    }
}

/// `writes.123`: the last record that the caller has.
fn resumed(text: &str) -> Result<(Chain, u64), Problem> {
    let read = || {
        let (chain, sequence) = text.split_once('.')?;
        Some((chain.parse().ok()?, sequence.parse().ok()?))
    };
    read().ok_or_else(|| {
        let detail = format!("after: {text:?} is not CHAIN.SEQUENCE, such as writes.120");
        Problem::bad_request(detail)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn stretches_shrink_with_large_records_and_grow_again() {
        assert_eq!(next_length(STRETCH_MAX, STRETCH_BYTES + 1), STRETCH_MAX / 2);
        assert_eq!(next_length(1, STRETCH_BYTES + 1), 1);
        assert_eq!(next_length(1, 10), 2);
        assert_eq!(next_length(STRETCH_MAX, 10), STRETCH_MAX);
    }

    #[test]
    fn a_place_to_resume_from_is_a_chain_and_a_sequence() {
        assert_eq!(resumed("denials.7").unwrap(), (Chain::Denials, 7));
        for text in ["", "writes", "writes.", "others.7", "writes.7.8"] {
            assert!(
                resumed(text).unwrap_err().detail.contains("CHAIN.SEQUENCE"),
                "{text}"
            );
        }
    }
}
