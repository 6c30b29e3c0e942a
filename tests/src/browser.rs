//! As much of a browser as a login needs: cookies by host, redirects, forms, and what a browser tells of where a request
//! comes from.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::Full;

use crate::client::{self, Reply};

/// A login takes five; more go in a circle.
const REDIRECTS_MAX: usize = 10;

/// Of one person.
#[derive(Clone, Debug, Default)]
pub struct Browser {
    /// By authority and name.
    cookies: BTreeMap<String, BTreeMap<String, String>>,
    /// Whose page is shown.
    at: String,
}

/// What is shown in the end, and from where.
#[derive(Clone, Debug)]
pub struct Page {
    pub url: String,
    pub reply: Reply,
}

impl Browser {
    pub fn new() -> Browser {
        Browser::default()
    }

    /// Goes there as one does who clicks on a link.
    ///
    /// # Errors
    /// Nobody answers, or the redirects have no end.
    pub async fn open(&mut self, url: &str) -> Result<Page> {
        let first = self.get(url).await?;
        self.follow(url, first).await
    }

    /// Sends a form of the page that is shown.
    ///
    /// # Errors
    /// As for [`Browser::open`].
    pub async fn submit(&mut self, url: &str, fields: &[(&str, &str)]) -> Result<Page> {
        let body: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{name}={}", percent_encoded(value)))
            .collect();
        let first = self.send(Method::POST, url, body.join("&")).await?;
        self.follow(url, first).await
    }

    /// Lets in the command line that shows this link and code, after logging in as that user.
    ///
    /// # Errors
    /// A page is not the one that a person would wait for.
    pub async fn let_in(&mut self, link: &str, code: &str, user: &str, password: &str) -> Result<()> {
        let page = self.open(link).await?;
        ensure!(page.text().contains("<h1>Sign in</h1>"), "{}", page.text());
        let origin = origin(link)?;
        let back = link.strip_prefix(&origin).context("the link has an origin")?;
        let fields = [("user", user), ("password", password), ("return", back)];
        let page = self.submit(&format!("{origin}/auth/login"), &fields).await?;
        ensure!(page.text().contains(code), "{}", page.text());
        let fields = [("code", code), ("decision", "allow")];
        let page = self.submit(&format!("{origin}/auth/device"), &fields).await?;
        ensure!(page.text().contains("It is let in"), "{}", page.text());
        Ok(())
    }

    /// One request, with its redirect as the answer if it is one.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn get(&mut self, url: &str) -> Result<Reply> {
        self.send(Method::GET, url, String::new()).await
    }

    /// The cookies that are sent to an authority, as the header has them.
    pub fn cookies(&self, authority: &str) -> String {
        let held = self.cookies.get(authority).into_iter().flatten();
        let pairs: Vec<String> = held.map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    }

    async fn follow(&mut self, url: &str, first: Reply) -> Result<Page> {
        let (mut url, mut reply) = (url.to_owned(), first);
        for _ in 0..REDIRECTS_MAX {
            if !reply.status.is_redirection() {
                self.at = origin(&url)?;
                return Ok(Page { url, reply });
            }
            url = absolute(&url, &reply.header("location"))?;
            reply = self.get(&url).await?;
        }
        bail!("redirected without end, at last to {url}")
    }

    async fn send(&mut self, method: Method, url: &str, body: String) -> Result<Reply> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is no address"))?;
        let authority = uri.authority().context("no authority")?.to_string();
        let address: SocketAddr = authority.parse().context("a browser of tests knows no names")?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let site = match origin(url)? == self.at {
            true => "same-origin",
            false => "cross-site",
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &authority)
            .header(header::COOKIE, self.cookies(&authority))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::USER_AGENT, "a browser of tests")
            .header("sec-fetch-site", site)
            .body(Full::new(Bytes::from(body)))
            .context("make the request")?;
        let reply = client::send(address, request).await?;
        let jar = self.cookies.entry(authority).or_default();
        for set in reply.headers.get_all(header::SET_COOKIE) {
            let set = set.to_str().context("a cookie that is no text")?;
            let (name, value) = set
                .split(';')
                .next()
                .and_then(|pair| pair.split_once('='))
                .context("no cookie")?;
            match value {
                "" => jar.remove(name),
                value => jar.insert(name.to_owned(), value.to_owned()),
            };
        }
        Ok(reply)
    }
}

impl Page {
    pub fn text(&self) -> String {
        self.reply.text()
    }
}

/// What stands before the path.
fn origin(url: &str) -> Result<String> {
    let (scheme, rest) = url
        .split_once("://")
        .with_context(|| format!("{url} has no scheme"))?;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    Ok(format!("{scheme}://{authority}"))
}

fn absolute(from: &str, location: &str) -> Result<String> {
    match location.starts_with('/') {
        true => Ok(format!("{}{location}", origin(from)?)),
        false => Ok(location.to_owned()),
    }
}

fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}
