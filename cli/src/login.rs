//! `tombolo login` and `tombolo logout`: a session for this command line, which somebody lets in with a browser (RFC
//! 8628); `tombolo password`: what one logs in with there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use hyper::Method;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::client::{Client, Extras, ServerArgs};
use crate::credentials::{Credentials, Login};
use crate::output::text;

/// RFC 8628, section 3.2: when the server names none.
const INTERVAL_S: u64 = 5;
/// RFC 8628, section 3.5: what `slow_down` adds.
const SLOW_DOWN_S: u64 = 5;
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const CLIENT_ID: &str = "tombolo-cli";

/// Logs this command line in.
///
/// Prints an address and a code; open the address in any browser, log in there, and let this command line in. What it
/// is given is kept in ~/.config/tombolo/credentials.json and used by all commands for that server, unless they are
/// given a token.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo login --server http://127.0.0.1:8080")]
pub(crate) struct LoginArgs {
    #[command(flatten)]
    server: ServerArgs,
}

/// Ends the login of this command line, here and at the server.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo logout --server http://127.0.0.1:8080")]
pub(crate) struct LogoutArgs {
    #[command(flatten)]
    server: ServerArgs,
}

/// Sets the password of a user, which ends the user's other sessions.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo password users/ann --password-file new.txt --current-file old.txt")]
pub(crate) struct PasswordArgs {
    /// The user's name.
    user: String,
    /// A file whose first line is the password; `-` is standard input.
    #[arg(long, env = "TOMBOLO_PASSWORD_FILE", value_name = "FILE")]
    password_file: PathBuf,
    /// A file with the password as it is, which whoever changes their own must know.
    #[arg(long, env = "TOMBOLO_CURRENT_PASSWORD_FILE", value_name = "FILE")]
    current_file: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

/// RFC 8628, section 3.2.
#[derive(Debug, Deserialize)]
struct Begun {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

/// What the server says to a command line that asks.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Login(Login),
    /// Not yet; and how long to wait from now on.
    Wait(Duration),
}

pub(crate) async fn login(args: LoginArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server)?;
    let (status, answer) = client
        .post_form("/auth/device_authorization", &[("client_id", CLIENT_ID)])
        .await?;
    if !status.is_success() {
        bail!(
            "{} lets nobody begin a login: {}",
            client.server(),
            reason(&answer)
        );
    }
    let begun: Begun = serde_json::from_value(answer).with_context(|| {
        format!(
            "{} does not answer as RFC 8628 says: is it management?",
            client.server()
        )
    })?;
    let link = begun
        .verification_uri_complete
        .as_ref()
        .unwrap_or(&begun.verification_uri);
    eprintln!("Open {link}\nand confirm the code {}", begun.user_code);
    let login = poll(&client, &begun).await?;
    let mut credentials = Credentials::load()?;
    credentials.set(client.server(), login.clone());
    let path = credentials.store()?;
    eprintln!("logged in as {}; kept in {}", login.user, path.display());
    Ok(())
}

pub(crate) async fn logout(args: LogoutArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server.logged_in())?;
    let mut credentials = Credentials::load()?;
    let Some(login) = credentials.remove(client.server()) else {
        bail!("nobody is logged in at {}", client.server());
    };
    let once = Extras {
        is_secret: true,
        ..Extras::default()
    };
    let ended = client.send(Method::POST, "auth:logout", once).await;
    // Also when the server knows it no more, or is away: then it ends by itself.
    credentials.store()?;
    ended.with_context(|| {
        format!(
            "the login is forgotten here, but {} may keep it until it expires",
            client.server()
        )
    })?;
    eprintln!("logged out {}", login.user);
    Ok(())
}

pub(crate) async fn password(args: PasswordArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server)?;
    let path = format!("{}/password", client.name(&args.user)?);
    let mut body = json!({ "password": secret(&args.password_file)? });
    if let Some(current) = &args.current_file {
        body["current"] = secret(current)?.into();
    }
    let extras = Extras {
        body: Some(body),
        is_secret: true,
        ..Extras::default()
    };
    let answer = client.send(Method::PUT, &path, extras).await?;
    eprintln!("set the password of {}", text(&answer.body["user"]));
    Ok(())
}

async fn poll(client: &Client, begun: &Begun) -> anyhow::Result<Login> {
    let deadline = Instant::now() + Duration::from_secs(begun.expires_in);
    let mut interval = Duration::from_secs(begun.interval.unwrap_or(INTERVAL_S));
    loop {
        sleep(interval).await;
        if Instant::now() >= deadline {
            bail!("nobody has confirmed the code in time; begin again");
        }
        let fields = [
            ("grant_type", GRANT_TYPE),
            ("device_code", begun.device_code.as_str()),
            ("client_id", CLIENT_ID),
        ];
        let (status, answer) = client.post_form("/auth/token", &fields).await?;
        match told(status, &answer, interval)? {
            Told::Login(login) => return Ok(login),
            Told::Wait(longer) => interval = longer,
        }
    }
}

fn told(status: StatusCode, answer: &Value, interval: Duration) -> anyhow::Result<Told> {
    if status.is_success() {
        return Ok(Told::Login(Login {
            token: answer["access_token"]
                .as_str()
                .context("the server sent no token")?
                .to_owned(),
            user: text(&answer["user"]),
        }));
    }
    match answer["error"].as_str() {
        Some("authorization_pending") => Ok(Told::Wait(interval)),
        Some("slow_down") => Ok(Told::Wait(interval + Duration::from_secs(SLOW_DOWN_S))),
        // The server may be starting again; the code outlives that.
        _ if status.is_server_error() => Ok(Told::Wait(interval)),
        Some("access_denied") => bail!("the person at the browser did not let this command line in"),
        _ => bail!("the login failed: {}", reason(answer)),
    }
}

fn reason(answer: &Value) -> String {
    let described = answer["error_description"].as_str().or(answer["error"].as_str());
    described.unwrap_or("no reason given").to_owned()
}

/// The first line of the file.
fn secret(path: &Path) -> anyhow::Result<String> {
    let text = match path.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()).context("read standard input")?,
        _ => fs::read_to_string(path).with_context(|| format!("read the password in {}", path.display()))?,
    };
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_is_waited_for_or_ends_the_login() {
        let five = Duration::from_secs(5);
        let error = |word: &str| json!({"error": word, "error_description": "why"});
        let granted = json!({"access_token": "tb_x", "user": "organizations/acme/users/ann"});
        let login = Login {
            token: "tb_x".to_owned(),
            user: "organizations/acme/users/ann".to_owned(),
        };
        for (status, answer, expected) in [
            (200, granted, Ok(Told::Login(login))),
            (400, error("authorization_pending"), Ok(Told::Wait(five))),
            (400, error("slow_down"), Ok(Told::Wait(five * 2))),
            (503, error("temporarily_unavailable"), Ok(Told::Wait(five))),
            (503, Value::Null, Ok(Told::Wait(five))),
            (
                400,
                error("access_denied"),
                Err("did not let this command line in"),
            ),
            (400, error("expired_token"), Err("the login failed: why")),
            (404, Value::Null, Err("no reason given")),
            (200, json!({}), Err("no token")),
        ] {
            let found = told(StatusCode::from_u16(status).unwrap(), &answer, five);
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(found), Err(expected)) => assert!(found.to_string().contains(expected), "{found}"),
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
        }
    }
}
