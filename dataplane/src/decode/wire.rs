//! The fields of an encoded message, without a look into them.

use std::ops::Range;

/// One field, where it stands in its message.
pub(super) struct Field {
    pub(super) number: usize,
    /// With its key and its length.
    pub(super) whole: Range<usize>,
    /// What is in it, where it is of those that say how long they are.
    pub(super) content: Option<Range<usize>>,
}

/// None where there are none: the message is broken off, or of a kind that no message of ours is.
pub(super) fn fields(message: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    let mut rest = message;
    let at = |rest: &[u8]| message.len() - rest.len();
    while !rest.is_empty() {
        let start = at(rest);
        let key = number(&mut rest)?;
        let content = match key & 7 {
            0 => {
                number(&mut rest)?;
                None
            }
            1 => {
                rest = rest.get(8..)?;
                None
            }
            2 => {
                let length = number(&mut rest)?;
                let content = at(rest);
                rest = rest.get(length..)?;
                Some(content..at(rest))
            }
            5 => {
                rest = rest.get(4..)?;
                None
            }
            _ => return None,
        };
        fields.push(Field {
            number: key >> 3,
            whole: start..at(rest),
            content,
        });
    }
    Some(fields)
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    prost::decode_length_delimiter(rest).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::google::protobuf::{Any, UInt32Value};
    use prost::Message;

    use super::*;

    #[test]
    fn fields_are_found_or_the_message_is_none() {
        let any = Any {
            type_url: "t".repeat(200),
            value: vec![1, 2, 3],
        };
        let any = any.encode_to_vec();
        let found = fields(&any).unwrap();
        let contents = found.iter().map(|field| field.content.clone().unwrap());
        assert_eq!(contents.collect::<Vec<_>>(), [3..203, 205..208]);
        assert_eq!(found[1].whole, 203..208);
        assert_eq!((found[0].number, found[1].number), (1, 2));
        let cuts = (1..any.len()).filter(|cut| *cut != 203);
        for cut in cuts {
            assert!(fields(&any[..cut]).is_none(), "cut at {cut}");
        }
        let number = UInt32Value { value: u32::MAX }.encode_to_vec();
        assert!(fields(&number).unwrap()[0].content.is_none());
        for (message, expected) in [
            // Numbers of eight and of four bytes.
            (&[0x09, 0, 0, 0, 0, 0, 0, 0, 0][..], true),
            (&[0x09, 0, 0, 0, 0, 0, 0, 0], false),
            (&[0x0d, 0, 0, 0, 0], true),
            (&[0x0d, 0, 0, 0], false),
            // A group.
            (&[0x0b, 0x0c], false),
            // A number without an end, and a length beyond all.
            (&[0xff; 11], false),
            (
                &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
                false,
            ),
        ] {
            assert_eq!(fields(message).is_some(), expected, "{message:?}");
        }
    }
}
