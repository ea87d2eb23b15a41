//! Standard output and standard error, whose readers may leave at any time.

use std::io::{self, ErrorKind, Write};

/// Standard output. When its reader has gone, what follows is dropped, so that a closed pipe ends this
/// output and nothing else: what was found still decides the exit code. Other errors are passed on.
pub struct UntilClosed<'a> {
    inner: &'a mut dyn Write,
    closed: bool,
}

impl<'a> UntilClosed<'a> {
    /// Writes to `inner`.
    pub fn new(inner: &'a mut dyn Write) -> UntilClosed<'a> {
        UntilClosed { inner, closed: false }
    }

    fn unless_closed<T>(
        &mut self,
        dropped: T,
        write: impl FnOnce(&mut dyn Write) -> io::Result<T>,
    ) -> io::Result<T> {
        if self.closed {
            return Ok(dropped);
        }
        match write(self.inner) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(dropped)
            }
            other => other,
        }
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
}
