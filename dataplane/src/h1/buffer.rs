//! What was read from a socket and not used up yet, and a worker's stock of such memory: an idle connection holds none.

use std::cell::{RefCell, RefMut};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::head::Fields;

/// Holds nearly every head with the start of its body, and is a good size for one read.
pub(crate) const BUFFER_BYTES: usize = 16 * 1024;
/// Kept for the next connections of a worker: 4 MiB.
const SPARE_MAX: usize = 256;

/// A worker's spare memory.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    spare: RefCell<Vec<Vec<u8>>>,
    written: RefCell<Vec<Vec<u8>>>,
    fields: RefCell<Fields>,
}

/// Its bytes go back to the worker when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    home: Rc<Buffers>,
}

impl Buffer {
    /// Without memory until it is filled.
    pub(crate) fn new(home: &Rc<Buffers>) -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            end: 0,
            home: Rc::clone(home),
        }
    }

    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether the next read would need [`Self::grow`] first.
    pub(crate) fn is_full(&self) -> bool {
        !self.bytes.is_empty() && self.end - self.start == self.bytes.len()
    }

    pub(crate) fn has_memory(&self) -> bool {
        !self.bytes.is_empty()
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    pub(crate) fn grow(&mut self) {
        let doubled = (2 * self.bytes.len()).max(BUFFER_BYTES);
        self.bytes.resize(doubled, 0);
    }

    /// Gives the memory back if there is nothing in it.
    pub(crate) fn rest(&mut self) {
        if self.is_empty() && self.has_memory() {
            self.home.give(std::mem::take(&mut self.bytes));
        }
    }

    /// Reads once; 0 is the end. Must not be full.
    pub(crate) fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if !self.has_memory() {
            self.bytes = self.home.take();
        }
        if self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut free = ReadBuf::new(&mut self.bytes[self.end..]);
        ready!(Pin::new(from).poll_read(cx, &mut free))?;
        let read = free.filled().len();
        self.end += read;
        Poll::Ready(Ok(read))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.end = self.start;
        self.rest();
    }
}

impl Buffers {
    /// For the lines of one head, which the next one takes the place of.
    pub(super) fn fields(&self) -> RefMut<'_, Fields> {
        self.fields.borrow_mut()
    }

    /// What a head is written in.
    pub(super) fn out(&self) -> Vec<u8> {
        self.written.borrow_mut().pop().unwrap_or_default()
    }

    /// Of what one long head has made large nothing is kept.
    pub(super) fn give_out(&self, out: Vec<u8>) {
        let mut written = self.written.borrow_mut();
        if (1..=BUFFER_BYTES).contains(&out.capacity()) && written.len() < SPARE_MAX {
            written.push(out);
        }
    }

    fn take(&self) -> Vec<u8> {
        let spare = self.spare.borrow_mut().pop();
        spare.unwrap_or_else(|| vec![0; BUFFER_BYTES])
    }

    fn give(&self, bytes: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if bytes.len() == BUFFER_BYTES && spare.len() < SPARE_MAX {
            spare.push(bytes);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn a_long_head_is_not_held_for_ever() {
        for (capacity, kept) in [
            (0, false),
            (1024, true),
            (BUFFER_BYTES, true),
            (BUFFER_BYTES + 1, false),
        ] {
            let buffers = Buffers::default();
            buffers.give_out(Vec::with_capacity(capacity));
            let out = buffers.out();
            assert_eq!(out.capacity() > 0, kept, "{capacity}");
        }
    }

    #[tokio::test]
    async fn bytes_stay_in_order_and_memory_goes_home() {
        let home = Rc::new(Buffers::default());
        let text: Vec<u8> = (0..100_000).map(|at: u32| at.to_le_bytes()[0]).collect();
        let mut from = &text[..];
        let mut buffer = Buffer::new(&home);
        let mut seen = Vec::new();
        // 7 does not divide the size, so that the rest is moved to the front now and then.
        while poll_fn(|cx| buffer.poll_fill(&mut from, cx)).await.unwrap() > 0 {
            while buffer.filled().len() > 7 {
                seen.extend_from_slice(&buffer.filled()[..7]);
                buffer.consume(7);
            }
        }
        seen.extend_from_slice(buffer.filled());
        assert_eq!(seen, text);
        drop(buffer);
        assert_eq!(home.spare.borrow().len(), 1);
        let mut large = Buffer::new(&home);
        let mut from = &text[..];
        while poll_fn(|cx| large.poll_fill(&mut from, cx)).await.unwrap() > 0 {
            if large.is_full() {
                large.grow();
            }
        }
        assert_eq!(large.filled(), text);
        drop(large);
        assert_eq!(home.spare.borrow().len(), 0, "what has grown is not kept");
    }
}
