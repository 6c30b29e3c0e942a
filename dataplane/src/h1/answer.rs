//! The head of a host's answer, as it comes: those before the last one are for us.

use super::buffer::Buffer;
use super::framing::{self, Framing};
use super::head::{Fields, HEAD_BYTES_MAX, StatusLine, is_worth_a_look, read_response};

/// Responses before the response; a host sends one or two.
const INTERIM_MAX: u32 = 16;

/// What an answer's head depends on besides itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) is_head: bool,
    /// Whether the connection may become another protocol's.
    pub(crate) may_switch: bool,
}

/// How far a head was read.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Where the last look ended.
    looked: usize,
    interim: u32,
}

impl Reading {
    /// Whether nothing of an answer has come.
    pub(crate) fn is_silent(&self, input: &Buffer) -> bool {
        input.is_empty() && self.interim == 0
    }

    /// The final head, if it has come; what came before it is taken out of `input`, and there is room in it for more.
    pub(crate) fn read(
        &mut self,
        input: &mut Buffer,
        fields: &mut Fields,
        asked: Asked,
    ) -> Result<Option<(StatusLine, Framing)>, String> {
        loop {
            let filled = input.filled();
            if !is_worth_a_look(filled, self.looked) {
                break;
            }
            let Some(line) = read_response(filled, fields).map_err(|malformed| malformed.to_string())? else {
                self.looked = filled.len();
                break;
            };
            let is_last = line.status >= 200 || line.status == 101 && asked.may_switch;
            if !is_last {
                self.looked = 0;
                self.interim += 1;
                if line.status == 101 || self.interim > INTERIM_MAX {
                    return Err("the host's interim responses lead nowhere".to_owned());
                }
                input.consume(line.bytes);
                continue;
            }
            let head = fields.of(&filled[..line.bytes]);
            let framing = framing::of_response(asked.is_head, line.status, head.said(line.version));
            return framing
                .and_then(|framing| head.check_options().map(|()| framing))
                .map(|framing| Some((line, framing)))
                .map_err(|malformed| malformed.to_string());
        }
        if input.is_full() {
            if input.filled().len() >= HEAD_BYTES_MAX {
                return Err("the host's head is too large".to_owned());
            }
            input.grow();
        }
        Ok(None)
    }
}
