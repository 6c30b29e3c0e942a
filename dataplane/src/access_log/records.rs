//! Logs that go to a collector of OpenTelemetry's: a record of each request, whose texts are formats as those of lines are.

use super::format::{Cursor, Format, Piece};
use super::{Ended, Note};
use crate::otlp::{AnyValue, ArrayValue, KeyValue, KeyValueList, LogRecord, Stream, Value, since_1970_ns};

/// What a record is like, and where it goes.
#[derive(Debug, PartialEq)]
pub(crate) struct Records {
    pub(crate) stream: Stream,
    pub(crate) body: Option<Shape>,
    pub(crate) attributes: Shapes,
}

/// By their names.
pub(crate) type Shapes = Box<[(Box<str>, Shape)]>;

/// A value, but for what requests have to say.
#[derive(Debug, PartialEq)]
pub(crate) enum Shape {
    Text(Format),
    List(Box<[Shape]>),
    Map(Shapes),
}

/// What the texts of a record are filled from, in their order.
struct Source<'a, 'b> {
    note: &'a Note,
    ended: &'a Ended<'a>,
    asked: &'a mut Cursor<'b>,
    answered: &'a mut Cursor<'b>,
}

impl Records {
    /// One of all its texts, by which is noted what they say of heads.
    pub(crate) fn format(&self) -> Format {
        let mut pieces = Vec::new();
        let attributes = self.attributes.iter().map(|(_, shape)| shape);
        let shapes = self.body.iter().chain(attributes);
        shapes.for_each(|shape| shape.gather(&mut pieces));
        Format::new(pieces)
    }

    pub(super) fn record<'b>(
        &self,
        note: &Note,
        ended: &Ended<'_>,
        asked: &mut Cursor<'b>,
        answered: &mut Cursor<'b>,
    ) -> LogRecord {
        let mut source = Source {
            note,
            ended,
            asked,
            answered,
        };
        let body = self.body.as_ref().map(|shape| shape.fill(&mut source));
        let attributes = filled(&self.attributes, &mut source);
        let (trace, span) = ended.trace.unzip();
        LogRecord {
            time_unix_nano: since_1970_ns(note.started),
            body,
            attributes,
            trace_id: trace
                .map(|trace| trace.to_be_bytes().to_vec())
                .unwrap_or_default(),
            span_id: span.map(|span| span.to_be_bytes().to_vec()).unwrap_or_default(),
        }
    }
}

impl Shape {
    fn gather(&self, pieces: &mut Vec<Piece>) {
        match self {
            Self::Text(format) => pieces.extend(format.pieces().iter().cloned()),
            Self::List(shapes) => shapes.iter().for_each(|shape| shape.gather(pieces)),
            Self::Map(shapes) => shapes.iter().for_each(|(_, shape)| shape.gather(pieces)),
        }
    }

    fn fill(&self, source: &mut Source<'_, '_>) -> AnyValue {
        let value = match self {
            Self::Text(format) => {
                let mut text = Vec::new();
                format.write(
                    &mut text,
                    source.note,
                    source.ended,
                    source.asked,
                    source.answered,
                );
                Value::StringValue(String::from_utf8_lossy(&text).into_owned())
            }
            Self::List(shapes) => Value::ArrayValue(ArrayValue {
                values: shapes.iter().map(|shape| shape.fill(source)).collect(),
            }),
            Self::Map(shapes) => Value::KvlistValue(KeyValueList {
                values: filled(shapes, source),
            }),
        };
        AnyValue { value: Some(value) }
    }
}

fn filled(shapes: &[(Box<str>, Shape)], source: &mut Source<'_, '_>) -> Vec<KeyValue> {
    let mut fill = |(name, shape): &(Box<str>, Shape)| KeyValue {
        key: name.to_string(),
        value: Some(shape.fill(source)),
        ..Default::default()
    };
    shapes.iter().map(&mut fill).collect()
}
