//! The frames of HTTP/2 in one direction, followed without being read: where each begins and ends, and what its head says
//! (RFC 9113, section 4.1).

pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PUSH_PROMISE: u8 = 0x5;
pub(super) const GOAWAY: u8 = 0x7;
pub(super) const CONTINUATION: u8 = 0x9;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;

const HEAD_BYTES: usize = 9;

#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD_BYTES],
    /// Bytes of `head` that have come, of a frame whose head is not complete.
    have: usize,
    /// The frame whose head is complete, and how much of it is still to come.
    current: Option<(Head, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) length: usize,
    pub(super) stream: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Begun(Head),
    Ended(Head),
}

impl Frames {
    /// What happens next in `bytes`, of which it takes what leads there; `None` when they are used up.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<Event> {
        if let Some((head, left)) = self.current {
            let taken = left.min(bytes.len());
            *bytes = &bytes[taken..];
            if taken < left {
                self.current = Some((head, left - taken));
                return None;
            }
            self.current = None;
            return Some(Event::Ended(head));
        }
        let taken = (HEAD_BYTES - self.have).min(bytes.len());
        self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
        *bytes = &bytes[taken..];
        self.have += taken;
        if self.have < HEAD_BYTES {
            return None;
        }
        self.have = 0;
        let head = Head::parse(self.head);
        self.current = Some((head, head.length));
        Some(Event::Begun(head))
    }

    /// Whether the last frame that has begun has ended too.
    pub(super) fn is_between(&self) -> bool {
        self.have == 0 && self.current.is_none()
    }

    /// Whether a frame of a body has begun and not ended.
    pub(super) fn is_within_data(&self) -> bool {
        self.current.is_some_and(|(head, _)| head.kind == DATA)
    }

    /// Whether a frame has begun that may not be one of a body.
    pub(super) fn is_within_other_than_data(&self) -> bool {
        self.have > 0 || self.current.is_some_and(|(head, _)| head.kind != DATA)
    }
}

impl Head {
    fn parse([a, b, c, kind, flags, stream @ ..]: [u8; HEAD_BYTES]) -> Self {
        Self {
            kind,
            flags,
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            // The first bit is reserved.
            stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
        }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A GOAWAY with nothing to it but its reason.
pub(super) fn go_away(last_stream: u32, code: u32) -> [u8; HEAD_BYTES + 8] {
    let mut frame = [0; HEAD_BYTES + 8];
    frame[2] = 8;
    frame[3] = GOAWAY;
    frame[HEAD_BYTES..HEAD_BYTES + 4].copy_from_slice(&last_stream.to_be_bytes());
    frame[HEAD_BYTES + 4..].copy_from_slice(&code.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(frames: &mut Frames, mut bytes: &[u8]) -> Vec<Event> {
        std::iter::from_fn(|| frames.next(&mut bytes)).collect()
    }

    #[test]
    fn frames_are_followed_however_they_are_cut() {
        let bytes: &[u8] = &[
            0, 0, 0, 4, 1, 0, 0, 0, 0, // an empty one
            0, 0, 3, 0, 1, 0x80, 0, 1, 2, 9, 9, 9, // one with a reserved bit
            1, 0, 0, 1, 4, 0x7f, 0xff, 0xff, 0xff, // a long one that has just begun
        ];
        let head = |kind, flags, length, stream| Head {
            kind,
            flags,
            length,
            stream,
        };
        let (settings, data) = (head(4, 1, 0, 0), head(DATA, END_STREAM, 3, 0x102));
        let long = head(HEADERS, END_HEADERS, 0x1_0000, 0x7fff_ffff);
        let expected = [
            Event::Begun(settings),
            Event::Ended(settings),
            Event::Begun(data),
            Event::Ended(data),
            Event::Begun(long),
        ];
        for step in 1..=bytes.len() {
            let mut frames = Frames::default();
            let got: Vec<Event> = bytes
                .chunks(step)
                .flat_map(|piece| events(&mut frames, piece))
                .collect();
            assert_eq!(got, expected, "in pieces of {step}");
            assert!(!frames.is_between());
        }
    }

    #[test]
    fn it_is_known_whether_a_frame_is_under_way() {
        for (bytes, between, other_than_data) in [
            (&[][..], true, false),
            (&[0], false, true),
            (&[0, 0, 1, 0, 0, 0, 0, 0], false, true),
            (&[0, 0, 1, 0, 0, 0, 0, 0, 1], false, false),
            (&[0, 0, 1, 0, 0, 0, 0, 0, 1, 7], true, false),
            (&[0, 0, 1, 1, 0, 0, 0, 0, 1], false, true),
            (&[0, 0, 0, 1, 0, 0, 0, 0, 1], true, false),
        ] {
            let mut frames = Frames::default();
            events(&mut frames, bytes);
            assert_eq!(frames.is_between(), between, "{bytes:?}");
            assert_eq!(frames.is_within_other_than_data(), other_than_data, "{bytes:?}");
        }
    }

    #[test]
    fn a_go_away_is_a_frame() {
        let frame = go_away(7, 11);
        let mut frames = Frames::default();
        let head = Head {
            kind: GOAWAY,
            flags: 0,
            length: 8,
            stream: 0,
        };
        assert_eq!(
            events(&mut frames, &frame),
            [Event::Begun(head), Event::Ended(head)]
        );
        assert_eq!(&frame[9..], &[0, 0, 0, 7, 0, 0, 0, 11]);
    }
}
