//! Standard output and standard error, whose readers may leave at any time.

use std::io::{self, ErrorKind, Write};
use std::time::Duration;

/// Another program that shares a descriptor may have made it non-blocking: a full pipe is then tried again
/// after this.
const FULL_PIPE: Duration = Duration::from_millis(5);

/// Standard output. When its reader has gone, what follows is dropped, so that a closed pipe ends this
/// output and nothing else: what was found still decides the exit code. A slow reader is waited for. Other
/// errors are passed on.
pub struct UntilClosed<'a> {
    inner: &'a mut dyn Write,
    closed: bool,
}

impl<'a> UntilClosed<'a> {
    /// Passes writes on to `inner` until its reader has gone.
    pub fn new(inner: &'a mut dyn Write) -> UntilClosed<'a> {
        UntilClosed { inner, closed: false }
    }

    fn unless_closed<T>(
        &mut self,
        dropped: T,
        write: impl Fn(&mut dyn Write) -> io::Result<T>,
    ) -> io::Result<T> {
        while !self.closed {
            match write(self.inner) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => self.closed = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PIPE),
                other => return other,
            }
        }
        Ok(dropped)
    }
}

impl Write for UntilClosed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unless_closed(bytes.len(), |inner| inner.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.unless_closed((), |inner| inner.flush())
    }
}

/// Standard error. A reader that has gone, or a full disk behind it, must not end a measurement: what
/// cannot be written is dropped, and the exit code says what happened.
pub struct BestEffort<'a>(pub &'a mut dyn Write);

impl Write for BestEffort<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_closed_pipe_is_silence_and_a_full_disk_is_an_error() {
        for (kind, passed_on) in [(ErrorKind::BrokenPipe, false), (ErrorKind::StorageFull, true)] {
            let mut inner = Failing(kind);
            let mut out = UntilClosed::new(&mut inner);
            for _ in 0..2 {
                assert_eq!(writeln!(out, "text").is_err(), passed_on, "{kind}");
                assert_eq!(out.flush().is_err(), passed_on, "{kind}");
            }
            let mut inner = Failing(kind);
            let mut err = BestEffort(&mut inner);
            assert!(writeln!(err, "text").is_ok() && err.flush().is_ok(), "{kind}");
        }
    }

    /// Takes a byte at every other attempt.
    #[derive(Default)]
    struct Slow {
        attempts: usize,
        taken: Vec<u8>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.flush()?;
            self.taken.extend(&bytes[..1]);
            Ok(1)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.attempts += 1;
            if self.attempts % 2 == 1 { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
        }
    }

    #[test]
    fn a_full_pipe_that_does_not_block_is_waited_for() {
        let mut slow = Slow::default();
        let mut out = UntilClosed::new(&mut slow);
        write!(out, "text").unwrap();
        out.flush().unwrap();
        assert_eq!(slow.taken, b"text");
    }
}
