//! `tombolo audit tail`: the newest records, and those to come as they are written.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{FilterArgs, cells, newest};
use crate::Verdict;
use crate::client::{Client, ServerArgs, query};
use crate::output::{Output, OutputArgs, print_text, yaml};
use crate::problem::Problem;

/// The server says something at least every 15 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// Before it asks again: the server ends each stream after a while, to see the token anew.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// When the server is away.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Shows the newest records, oldest of them first, and with `-f` those to come.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo audit tail -f
  tombolo audit tail -f --outcome denied --name tenants/payments -o json")]
pub(crate) struct TailArgs {
    /// Goes on with what is written from now on, until Ctrl-C.
    #[arg(short = 'f', long, env = "TOMBOLO_AUDIT_FOLLOW")]
    follow: bool,
    /// How many of the newest are shown first.
    #[arg(short = 'n', long, env = "TOMBOLO_AUDIT_LIMIT", default_value_t = 10)]
    limit: usize,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Takes the bytes of a stream of server-sent events, and gives what is whole.
#[derive(Debug, Default)]
struct Events {
    rest: Vec<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Event {
    id: Option<String>,
    data: Option<String>,
}

pub(super) async fn run(args: TailArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let parameters = args.filter.parameters(&client)?;
    let mut last = None;
    if args.follow {
        // Before the newest are listed, so that none is lost in between; what comes twice is dropped below.
        last = Some(first_id(&client, &parameters).await?);
    }
    let mut shown = newest(&client, &args.filter, args.limit).await?;
    shown.reverse();
    for record in &shown {
        show(args.output.output, record)?;
    }
    let Some(mut last) = last else {
        return Ok(Verdict::Good);
    };
    let is_shown = |record: &Value| {
        shown
            .iter()
            .any(|old| old["chain"] == record["chain"] && old["sequence"] == record["sequence"])
    };
    loop {
        let ended = follow(&client, &parameters, &mut last, |record| match is_shown(record) {
            true => Ok(()),
            false => show(args.output.output, record),
        })
        .await;
        match ended {
            Ok(()) => sleep(AGAIN_AFTER).await,
            // Asking again would be refused again.
            Err(error) if error.is::<Problem>() => return Err(error),
            Err(error) => {
                eprintln!("{error:#}; asking again");
                sleep(RETRY_AFTER).await;
            }
        }
    }
}

type Parameters = [(&'static str, Option<String>)];

/// The id that the stream begins with.
async fn first_id(client: &Client, parameters: &Parameters) -> anyhow::Result<String> {
    let mut body = client
        .open(&query("audit:tail", parameters), &[])
        .await?
        .into_body();
    let mut events = Events::default();
    loop {
        let frame = timeout(SILENCE_MAX, body.frame())
            .await
            .context("the server says nothing")?;
        let frame = frame.context("the server ended the stream")??;
        let found = events.push(frame.data_ref().map_or(&[], |data| data));
        if let Some(id) = found.into_iter().find_map(|event| event.id) {
            return Ok(id);
        }
    }
}

/// Returns when the server ends the stream.
async fn follow(
    client: &Client,
    parameters: &Parameters,
    last: &mut String,
    show: impl Fn(&Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let headers = [("last-event-id", last.clone())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let answer = client.open(&query("audit:tail", parameters), &headers).await?;
    let mut body = answer.into_body();
    let mut events = Events::default();
    loop {
        let frame = timeout(SILENCE_MAX, body.frame())
            .await
            .context("the server says nothing")?;
        let Some(frame) = frame else {
            return Ok(());
        };
        let frame = frame.context("the stream broke off")?;
        for event in events.push(frame.data_ref().map_or(&[], |data| data)) {
            if let Some(data) = event.data {
                let record: Value = serde_json::from_str(&data).context("read an event")?;
                show(&record)?;
            }
            if let Some(id) = event.id {
                *last = id;
            }
        }
    }
}

/// A line each, so that it can be piped.
fn show(output: Output, record: &Value) -> anyhow::Result<()> {
    let text = match output {
        Output::Table => format!("{}\n", cells(record).join("  ")),
        Output::Json => format!("{record}\n"),
        Output::Yaml => format!("---\n{}", yaml(record)?),
    };
    print_text(&text)
}

impl Events {
    fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.rest.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.rest.drain(..end + 2).collect();
            let mut event = Event::default();
            for line in String::from_utf8_lossy(&block).lines() {
                if let Some(id) = line.strip_prefix("id: ") {
                    event.id = Some(id.to_owned());
                } else if let Some(data) = line.strip_prefix("data: ") {
                    event.data = Some(data.to_owned());
                }
            }
            events.push(event);
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_however_they_arrive() {
        let stream = b"id: 1.0\n\nid: 2.0\ndata: {\"a\":1}\n\n: alive\n\nid: 3";
        let event = |id: Option<&str>, data: Option<&str>| Event {
            id: id.map(str::to_owned),
            data: data.map(str::to_owned),
        };
        let expected = [
            event(Some("1.0"), None),
            event(Some("2.0"), Some("{\"a\":1}")),
            event(None, None),
        ];
        assert_eq!(Events::default().push(stream), expected);
        let mut events = Events::default();
        let bytewise: Vec<Event> = stream.iter().flat_map(|&byte| events.push(&[byte])).collect();
        assert_eq!(bytewise, expected);
    }
}
