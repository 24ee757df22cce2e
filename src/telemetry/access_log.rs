//! The access log: one JSON line a request (contract section 7).
//!
//! Each worker thread gathers its lines in a buffer of its own; one writer thread puts them out. A reader of the log
//! that is too slow costs lines, counted, and never a request's time.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// A buffer is handed to the writer at this size, or when [`FLUSH_EVERY`] has passed. Each costs the writer a turn of the
/// processor and a system call: about a hundred lines share them.
const BUFFER: usize = 64 * 1024;
/// The last line of a buffer stands in its rest, most of the time.
const ROOM: usize = BUFFER + 4 * 1024;
/// How long a line may wait for others.
pub const FLUSH_EVERY: Duration = Duration::from_millis(50);
/// Buffers that may wait for the writer, over all threads: 16 MiB.
const QUEUE: usize = 256;

/// The writer's end. Lives as long as the program; [`AccessLog::finish`] writes what is left.
pub struct AccessLog {
    lines: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

/// Waits for the writer to have written everything.
pub struct Writer(JoinHandle<()>);

impl AccessLog {
    /// Starts the writer thread on `out`.
    pub fn start(out: impl Write + Send + 'static) -> std::io::Result<(Arc<Self>, Writer)> {
        let (lines, received) = sync_channel(QUEUE);
        let writer =
            std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(received, out))?;
        Ok((Arc::new(Self { lines, dropped: Arc::default() }), Writer(writer)))
    }

    /// Counts lines lost to a slow reader; outlives the log.
    #[must_use]
    pub fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }

    fn send(&self, buffer: Vec<u8>, lines: u64) {
        if self.lines.try_send(buffer).is_err() {
            self.dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }
}

impl Writer {
    /// Waits until all that was handed over is written. Every [`AccessLog`] must be gone by then.
    pub fn finish(self) {
        if self.0.join().is_err() {
            tracing::error!("the access log's writer ended by a panic");
        }
    }
}

fn write_all(received: Receiver<Vec<u8>>, mut out: impl Write) {
    for buffer in received {
        if out.write_all(&buffer).and_then(|()| out.flush()).is_err() {
            // A closed standard output is no reason to end: the gateway works without its log.
            continue;
        }
    }
}

/// One worker thread's buffer of lines.
pub struct LineBuffer {
    log: Arc<AccessLog>,
    pending: RefCell<Pending>,
}

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    lines: u64,
}

impl LineBuffer {
    #[must_use]
    pub fn new(log: Arc<AccessLog>) -> Rc<Self> {
        Rc::new(Self { log, pending: RefCell::default() })
    }

    /// Adds the line that `write` puts at the end of the buffer.
    pub fn add(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut pending = self.pending.borrow_mut();
        if pending.bytes.capacity() == 0 {
            pending.bytes.reserve(ROOM);
        }
        write(&mut pending.bytes);
        pending.lines += 1;
        if pending.bytes.len() >= BUFFER {
            self.hand_over(&mut pending);
        }
    }

    /// Hands what is there to the writer.
    pub fn flush(&self) {
        let mut pending = self.pending.borrow_mut();
        if pending.lines > 0 {
            self.hand_over(&mut pending);
        }
    }

    /// Flushes now and then, for ever; to be run beside the thread's other tasks.
    pub async fn flush_now_and_then(self: Rc<Self>) {
        loop {
            tokio::time::sleep(FLUSH_EVERY).await;
            self.flush();
        }
    }

    fn hand_over(&self, pending: &mut Pending) {
        let Pending { bytes, lines } = std::mem::take(pending);
        self.log.send(bytes, lines);
    }
}

impl Drop for LineBuffer {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_written_in_order_before_finish_returns() {
        let sink = Sink::default();
        let (log, writer) = AccessLog::start(sink.clone()).unwrap();
        let buffer = LineBuffer::new(log);
        for n in 0..5000 {
            buffer.add(|out| out.extend_from_slice(format!("{n}\n").as_bytes()));
        }
        drop(buffer);
        writer.finish();
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let expected: String = (0..5000).map(|n| format!("{n}\n")).collect();
        assert_eq!(text, expected);
    }

    #[test]
    fn lines_for_a_writer_that_stands_still_are_dropped_and_counted() {
        let gate = Arc::new(Mutex::new(()));
        struct Stuck(Arc<Mutex<()>>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                drop(self.0.lock().unwrap());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let held = gate.lock().unwrap();
        let (log, writer) = AccessLog::start(Stuck(gate.clone())).unwrap();
        let buffer = LineBuffer::new(log.clone());
        for _ in 0..QUEUE + 50 {
            buffer.add(|out| out.resize(BUFFER, b'x'));
        }
        assert!(log.dropped().load(Ordering::Relaxed) >= 49, "{:?}", log.dropped());
        drop(held);
        drop((buffer, log));
        writer.finish();
    }
}
