//! The files of the web admin, read once when management starts, so that a request can name nothing outside of them.
//! Which file answers a path, and with which headers, is decided here; the API serves it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::audit::hex;

const INDEX: &str = "index.html";
/// The folder whose files bear a hash of their content in their names.
const HASHED: &str = "assets/";
/// Paths of the API, below which nothing is a page.
const API: &[&str] = &["v1", "auth", "healthz", "readyz", "metrics"];
/// The admin is a few hundred kilobytes: more is some other folder, named by mistake.
const BYTES_MAX: u64 = 16 << 20;
/// Only our own files run, are drawn and are asked, and nobody draws us in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// What `/` serves.
#[derive(Debug)]
pub(crate) struct Site {
    /// By path below the folder.
    files: BTreeMap<String, File>,
}

#[derive(Clone, Debug)]
struct File {
    bytes: Bytes,
    media_type: &'static str,
    etag: HeaderValue,
    caching: &'static str,
}

#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    #[error("cannot read the web admin from {path}: check --web-dir", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{dir} has no index.html: build it with `npm ci && npm run build` in web/, which makes web/dist", dir = dir.display())]
    NotBuilt { dir: PathBuf },
    #[error("{dir} is larger than {BYTES_MAX} bytes, which is not the web admin: check --web-dir", dir = dir.display())]
    TooLarge { dir: PathBuf },
}

impl Site {
    pub(crate) fn load(dir: &Path) -> Result<Site, SiteError> {
        let mut files = BTreeMap::new();
        let mut left = BYTES_MAX;
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let path = dir.join(&folder);
            let unreadable = |source| SiteError::Read {
                path: path.clone(),
                source,
            };
            for entry in fs::read_dir(&path).map_err(unreadable)? {
                let entry = entry.map_err(unreadable)?;
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                let place = format!("{folder}{name}");
                let about = entry.metadata().map_err(unreadable)?;
                if about.is_dir() {
                    folders.push(format!("{place}/"));
                } else if about.is_file() {
                    let too_large = || SiteError::TooLarge { dir: dir.to_owned() };
                    left = left.checked_sub(about.len()).ok_or_else(too_large)?;
                    let bytes = fs::read(entry.path()).map_err(unreadable)?;
                    files.insert(place.clone(), File::new(&place, bytes));
                }
            }
        }
        match files.contains_key(INDEX) {
            true => Ok(Site { files }),
            false => Err(SiteError::NotBuilt { dir: dir.to_owned() }),
        }
    }

    /// The answer to a path that the API does not serve; `None` where there is no page either.
    pub(crate) fn get(&self, path: &str) -> Option<Response> {
        let path = path.strip_prefix('/')?;
        let first = path.split('/').next().unwrap_or_default();
        if API.contains(&first) {
            return None;
        }
        match self.files.get(path) {
            Some(file) => Some(file.answer()),
            // Of an older build: a page in its place would only be misread.
            None if path.starts_with(HASHED) => None,
            // The pages of the admin have addresses of their own, which the script understands.
            None => self.files.get(INDEX).map(File::answer),
        }
    }
}

impl File {
    fn new(path: &str, bytes: Vec<u8>) -> File {
        let etag = format!("\"{}\"", hex(&Sha256::digest(&bytes)));
        File {
            media_type: media_type(path),
            etag: HeaderValue::from_str(&etag).expect("invariant: hexadecimal digits are visible"),
            bytes: bytes.into(),
            caching: match path.starts_with(HASHED) {
                true => "public, max-age=31536000, immutable",
                false => "no-cache",
            },
        }
    }

    fn answer(&self) -> Response {
        let fixed = |name: HeaderName, value: &'static str| (name, HeaderValue::from_static(value));
        let headers = [
            fixed(header::CONTENT_TYPE, self.media_type),
            fixed(header::CACHE_CONTROL, self.caching),
            fixed(header::CONTENT_SECURITY_POLICY, POLICY),
            fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            fixed(header::REFERRER_POLICY, "no-referrer"),
            fixed(
                HeaderName::from_static("cross-origin-opener-policy"),
                "same-origin",
            ),
            (header::ETAG, self.etag.clone()),
        ];
        (StatusCode::OK, headers, Body::from(self.bytes.clone())).into_response()
    }
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn built(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("this is {file}")).unwrap();
        }
        dir
    }

    #[test]
    fn pages_are_served_outside_of_the_api_only() {
        let dir = built(&["index.html", "icon.svg", "assets/index-4f2a.js"]);
        let site = Site::load(dir.path()).unwrap();
        let told = |path: &str| {
            site.get(path).map(|answer| {
                let header = |name| answer.headers()[name].to_str().unwrap().to_owned();
                format!("{} {}", header("content-type"), header("cache-control"))
            })
        };
        let page = Some("text/html; charset=utf-8 no-cache".to_owned());
        let script = "text/javascript; charset=utf-8 public, max-age=31536000, immutable".to_owned();
        for (path, expected) in [
            ("/", page.clone()),
            ("/index.html", page.clone()),
            ("/resources/organizations/acme", page.clone()),
            ("/v1x", page),
            ("/icon.svg", Some("image/svg+xml no-cache".to_owned())),
            ("/assets/index-4f2a.js", Some(script)),
            ("/assets/index-0000.js", None),
            ("/v1", None),
            ("/v1/", None),
            ("/v1/nothing", None),
            ("/auth/nothing", None),
            ("/healthz/more", None),
            ("/readyz/", None),
            ("/metrics/", None),
        ] {
            assert_eq!(told(path), expected, "{path}");
        }
    }

    #[test]
    fn a_folder_that_is_not_the_admin_is_refused_with_what_to_do() {
        let told = |dir: &Path| Site::load(dir).unwrap_err().to_string();
        assert!(told(built(&["package.json"]).path()).contains("npm run build"));
        assert!(told(Path::new("/nowhere")).contains("--web-dir"));
    }
}
