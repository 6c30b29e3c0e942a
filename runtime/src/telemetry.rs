//! Structured logs on standard error, as JSON for machines or text for people.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Json,
    Text,
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("unknown log format `{given}`: use `json` or `text`")]
    Format { given: String },
    #[error("cannot read the log filter `{filter}`: write it as `info` or `warn,tombolo_proto=debug`")]
    Filter {
        filter: String,
        #[source]
        source: ParseError,
    },
    #[error("cannot install the log output: this process already has one")]
    AlreadyInstalled,
}

/// Installs the process's log output. `filter` has the syntax of `RUST_LOG` (`info,tombolo_proto=debug`).
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let env_filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|source| TelemetryError::Filter {
            filter: filter.to_owned(),
            source,
        })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(env_filter)
        .with_writer(std::io::stderr);
    match format {
        // Spans do not nest here: the list of them would repeat the one.
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .try_init(),
        LogFormat::Text => builder.try_init(),
    }
    .map_err(|_| TelemetryError::AlreadyInstalled)
}

/// An error with all its causes on one line, `outer: inner: innermost`, for a log field or a finding.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Several crates repeat their source in their own Display.
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

impl FromStr for LogFormat {
    type Err = TelemetryError;

    fn from_str(text: &str) -> Result<Self, TelemetryError> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(TelemetryError::Format {
                given: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Text => "text",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{LogFormat, TelemetryError, chain, init};

    #[test]
    fn formats_read_back() {
        for format in [LogFormat::Json, LogFormat::Text] {
            assert_eq!(format.to_string().parse::<LogFormat>().unwrap(), format);
        }
        assert_eq!(
            "xml".parse::<LogFormat>().unwrap_err().to_string(),
            "unknown log format `xml`: use `json` or `text`"
        );
    }

    #[test]
    fn a_bad_filter_is_named() {
        let error = init(LogFormat::Text, "tombolo=loud").unwrap_err();
        assert!(matches!(&error, TelemetryError::Filter { filter, .. } if filter == "tombolo=loud"));
        assert!(
            chain(&error).starts_with("cannot read the log filter `tombolo=loud`"),
            "{}",
            chain(&error)
        );
    }
}
