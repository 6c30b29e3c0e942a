//! `tombolo login` as a person has it: the command line shows a link, a browser confirms it, and from then on every command
//! is that person's, until `tombolo logout`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;
use tombolo_tests::browser::Browser;
use tombolo_tests::console::Console;
use tombolo_tests::tombolo_binary;

const PASSWORD: &str = "a horse that reads maps";
/// Of a command, on a machine that may be busy.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(60);

fn tombolo(console: &Console, home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(tombolo_binary());
    command
        .args(args)
        .env_clear()
        .env("HOME", home)
        .env("TOMBOLO_SERVER", console.server())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn run(console: &Console, home: &Path, args: &[&str]) -> Output {
    let running = tombolo(console, home, args).output();
    timeout(COMMAND_TIME_MAX, running).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_command_line_is_let_in_by_a_browser_until_it_logs_out() {
    let console = Console::start().await;
    let set =
        format!("echo '{PASSWORD}' | tombolo password organizations/acme/users/admin --password-file -");
    let said = console.run(&[&set]).await.unwrap();
    assert_eq!(said[0].code, Some(0), "{}", said[0].text);

    let home = tempfile::tempdir().unwrap();
    let mut login = tombolo(&console, home.path(), &["login"]).spawn().unwrap();
    let mut lines = BufReader::new(login.stderr.take().unwrap()).lines();
    let first = timeout(COMMAND_TIME_MAX, lines.next_line())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let link = first.strip_prefix("Open ").unwrap().to_owned();
    let second = lines.next_line().await.unwrap().unwrap();
    let code = second.strip_prefix("and confirm the code ").unwrap();

    let mut browser = Browser::new();
    browser.let_in(&link, code, "admin", PASSWORD).await.unwrap();

    let ended = timeout(COMMAND_TIME_MAX, login.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
    let kept = home.path().join(".config/tombolo/credentials.json");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    let got = run(&console, home.path(), &["get", "organizations/acme"]).await;
    assert!(got.status.success(), "{got:?}");

    let out = run(&console, home.path(), &["logout"]).await;
    assert!(out.status.success(), "{out:?}");
    assert!(!fs::read_to_string(&kept).unwrap().contains("tb_"));
    let got = run(&console, home.path(), &["get", "organizations/acme"]).await;
    assert!(!got.status.success(), "{got:?}");
    let again = run(&console, home.path(), &["logout"]).await;
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("nobody is logged in"),
        "{again:?}"
    );
    console.stop().await;
}
