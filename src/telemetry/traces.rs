//! Traces on their way to a collector (OTLP over gRPC).
//!
//! Each worker thread gathers the stories of its recorded requests; one thread with a runtime of its own makes spans of
//! them and sends them on. A collector that is slow or away costs spans, counted, and never a request's time.

use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::spans::{self, Anchor};
use super::trace::Story;
use super::{SampleRatio, TraceSettings};
use crate::clock::{Clock, monotonic};

/// Stories of a thread that are handed over at once.
const HANDFUL: usize = 64;
/// How long a story may wait for others of its thread, and then for those of all.
const FLUSH_EVERY: Duration = Duration::from_millis(200);
const EXPORT_EVERY: Duration = Duration::from_secs(1);
/// Stories in one message: at most four spans each, so far below the 4 MiB that collectors take.
const BATCH: usize = 256;
/// Stories that may wait, over all threads: about 10 MiB.
const QUEUE: usize = 16_384;
/// How long the collector may take for one message, tries again included; the second bound is for what the first does
/// not know of, as a name that is not resolved.
const TIMEOUT: Duration = Duration::from_secs(5);
const LAST_RESORT: Duration = Duration::from_secs(10);
/// How often it is said that the collector takes nothing.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Why no traces can be sent.
#[derive(Debug, thiserror::Error)]
pub enum TraceFault {
    #[error("telemetry.otlp_endpoint cannot be used: {0}")]
    Endpoint(#[from] ExporterBuildError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Spans so far. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct SpanCounts {
    exported: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
}

impl SpanCounts {
    /// That a collector has taken.
    #[must_use]
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Lost: there were too many at once, or the collector did not take them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The way to the exporter, shared by all threads.
pub struct Traces {
    stories: UnboundedSender<Vec<Story>>,
    waiting: Arc<AtomicUsize>,
    counts: SpanCounts,
    ratio: SampleRatio,
}

/// The thread that sends. Ends when it is told to, or forgotten.
pub struct Exporter {
    stop: oneshot::Sender<()>,
    ended: mpsc::Receiver<()>,
}

impl Traces {
    /// Starts the exporter. Whether there is a collector is not asked: one that comes later is as good.
    pub fn start(
        settings: &TraceSettings,
        clock: Clock,
        counts: SpanCounts,
    ) -> Result<(Arc<Self>, Exporter), TraceFault> {
        let (stories, inbox) = unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let (says_started, started) = mpsc::channel();
        let (says_ended, ended) = mpsc::channel();
        let waiting = Arc::<AtomicUsize>::default();
        let sending = Sending { clock, counts: counts.clone(), waiting: Arc::clone(&waiting), silence: None };
        let endpoint = settings.endpoint.clone();
        // The client of the exporter lives on the runtime that it was made in.
        let work = move || -> Result<(), TraceFault> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let made = {
                let _inside = runtime.enter();
                client(&endpoint)
            };
            match made {
                Ok(client) => {
                    let _: Result<(), _> = says_started.send(Ok(()));
                    runtime.block_on(sending.run(inbox, stopped, client));
                }
                Err(fault) => {
                    let _: Result<(), _> = says_started.send(Err(fault));
                }
            }
            // Whoever waits hears that this is gone.
            drop(says_ended);
            // A name that is still being looked up is not waited for.
            runtime.shutdown_background();
            Ok(())
        };
        std::thread::Builder::new().name("traces".into()).spawn(work)?;
        started.recv().unwrap_or_else(|_| Err(std::io::Error::other("no runtime for traces").into()))?;
        let traces = Self { stories, waiting, counts, ratio: settings.sample_ratio };
        Ok((Arc::new(traces), Exporter { stop, ended }))
    }

    /// Hands stories over, or counts their spans as lost where too many wait.
    fn send(&self, stories: Vec<Story>) {
        let (number, spans) = (stories.len(), spans_of(&stories));
        let waiting = self.waiting.fetch_add(number, Ordering::Relaxed) + number;
        if waiting > QUEUE || self.stories.send(stories).is_err() {
            self.waiting.fetch_sub(number, Ordering::Relaxed);
            self.counts.dropped.fetch_add(spans, Ordering::Relaxed);
        }
    }
}

impl Exporter {
    /// Sends what was handed over and ends; not waited for longer than `patience`. Blocks.
    pub fn finish(self, patience: Duration) {
        let _: Result<(), ()> = self.stop.send(());
        if matches!(self.ended.recv_timeout(patience), Err(mpsc::RecvTimeoutError::Timeout)) {
            tracing::warn!("the collector was too slow for the last traces");
        }
    }
}

fn spans_of(stories: &[Story]) -> u64 {
    stories.iter().map(Story::spans).sum()
}

fn client(endpoint: &str) -> Result<SpanExporter, TraceFault> {
    let builder = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(TIMEOUT);
    let builder = if endpoint.starts_with("https://") {
        builder.with_tls_config(ClientTlsConfig::new().with_native_roots())
    } else {
        builder
    };
    let mut client = builder.build()?;
    // What the environment says of the deployment (`OTEL_RESOURCE_ATTRIBUTES`) is told along.
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    client.set_resource(&Resource::builder().with_service_name("postern").with_attribute(version).build());
    Ok(client)
}

/// The exporter's own thread.
struct Sending {
    clock: Clock,
    counts: SpanCounts,
    waiting: Arc<AtomicUsize>,
    silence: Option<Silence>,
}

/// The collector takes nothing.
struct Silence {
    told: Instant,
    /// Spans lost since it was told.
    lost: u64,
}

impl Sending {
    async fn run(
        mut self,
        mut inbox: UnboundedReceiver<Vec<Story>>,
        mut stopped: oneshot::Receiver<()>,
        client: SpanExporter,
    ) {
        loop {
            let (stories, goes_on) = gather(&mut inbox, &mut stopped).await;
            let mut stories = stories.into_iter().peekable();
            while stories.peek().is_some() {
                self.export(stories.by_ref().take(BATCH).collect(), &client).await;
            }
            if !goes_on {
                return;
            }
        }
    }

    async fn export(&mut self, stories: Vec<Story>, client: &SpanExporter) {
        let anchor = Anchor { monotonic: monotonic(), wall: self.clock.precisely() };
        let spans: Vec<_> = stories.iter().flat_map(|story| spans::of(story, anchor)).collect();
        let number = spans.len() as u64;
        let sent = tokio::time::timeout(LAST_RESORT, client.export(spans)).await;
        self.waiting.fetch_sub(stories.len(), Ordering::Relaxed);
        match sent {
            Ok(Ok(())) => {
                self.counts.exported.fetch_add(number, Ordering::Relaxed);
                if self.silence.take().is_some() {
                    tracing::info!("the collector takes traces again");
                }
            }
            Ok(Err(error)) => self.lost(number, &error),
            Err(late) => self.lost(number, &late),
        }
    }

    fn lost(&mut self, spans: u64, error: &dyn std::fmt::Display) {
        self.counts.dropped.fetch_add(spans, Ordering::Relaxed);
        let now = monotonic();
        let lost = spans + self.silence.as_ref().map_or(0, |silence| silence.lost);
        let told = self.silence.as_ref().map(|silence| silence.told);
        if told.is_some_and(|told| now.saturating_duration_since(told) < COMPLAIN_EVERY) {
            self.silence = told.map(|told| Silence { told, lost });
            return;
        }
        tracing::warn!(spans = lost, %error, "traces were lost: the collector does not take them");
        self.silence = Some(Silence { told: now, lost: 0 });
    }
}

/// What comes in from the first story on, for a while or until it is enough; false: there will be no more.
async fn gather(
    inbox: &mut UnboundedReceiver<Vec<Story>>,
    stopped: &mut oneshot::Receiver<()>,
) -> (Vec<Story>, bool) {
    let mut stories = Vec::new();
    let enough = tokio::time::sleep(Duration::MAX);
    tokio::pin!(enough);
    while stories.len() < BATCH {
        tokio::select! {
            more = inbox.recv() => match more {
                Some(more) => {
                    if stories.is_empty() {
                        enough.as_mut().reset(tokio::time::Instant::from_std(monotonic() + EXPORT_EVERY));
                    }
                    stories.extend(more);
                }
                None => return (stories, false),
            },
            () = &mut enough => break,
            _ = &mut *stopped => {
                while let Ok(more) = inbox.try_recv() {
                    stories.extend(more);
                }
                return (stories, false);
            }
        }
    }
    (stories, true)
}

/// One worker thread's stories.
pub struct SpanBuffer {
    traces: Arc<Traces>,
    pending: RefCell<Vec<Story>>,
}

impl SpanBuffer {
    #[must_use]
    pub fn new(traces: Arc<Traces>) -> Rc<Self> {
        Rc::new(Self { traces, pending: RefCell::default() })
    }

    pub(super) fn ratio(&self) -> SampleRatio {
        self.traces.ratio
    }

    pub(super) fn add(&self, story: Story) {
        let mut pending = self.pending.borrow_mut();
        pending.push(story);
        if pending.len() >= HANDFUL {
            self.traces.send(std::mem::take(&mut pending));
        }
    }

    /// Hands over what is there now and then, for ever; to be run beside the thread's other tasks.
    pub async fn flush_now_and_then(self: Rc<Self>) {
        loop {
            tokio::time::sleep(FLUSH_EVERY).await;
            self.flush();
        }
    }

    fn flush(&self) {
        let pending = self.pending.take();
        if !pending.is_empty() {
            self.traces.send(pending);
        }
    }
}

impl Drop for SpanBuffer {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::super::spans::tests::story;
    use super::*;

    fn traces() -> (Traces, UnboundedReceiver<Vec<Story>>) {
        let (stories, inbox) = unbounded_channel();
        let counts = SpanCounts::default();
        (Traces { stories, waiting: Arc::default(), counts, ratio: SampleRatio::ALL }, inbox)
    }

    #[test]
    fn more_than_may_wait_is_dropped_and_counted() {
        let (traces, mut inbox) = traces();
        for _ in 0..QUEUE / HANDFUL + 2 {
            traces.send((0..HANDFUL).map(|_| story()).collect());
        }
        assert_eq!(traces.counts.dropped(), 2 * HANDFUL as u64 * story().spans());
        let mut there = 0;
        while let Ok(stories) = inbox.try_recv() {
            there += stories.len();
        }
        assert_eq!(there, QUEUE);
    }

    #[test]
    fn a_threads_stories_are_handed_over_by_the_handful_and_at_its_end() {
        let (traces, mut inbox) = traces();
        let buffer = SpanBuffer::new(Arc::new(traces));
        (0..HANDFUL).for_each(|_| buffer.add(story()));
        assert_eq!(inbox.try_recv().unwrap().len(), HANDFUL);
        buffer.add(story());
        assert!(inbox.try_recv().is_err());
        drop(buffer);
        assert_eq!(inbox.try_recv().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn stories_are_gathered_until_they_are_enough_or_have_waited_or_there_is_an_end() {
        let (stories, mut inbox) = unbounded_channel();
        let (stop, mut stopped) = oneshot::channel();
        let some = |number| (0..number).map(|_| story()).collect::<Vec<_>>();
        stories.send(some(BATCH + 3)).unwrap();
        let (gathered, goes_on) = gather(&mut inbox, &mut stopped).await;
        assert_eq!((gathered.len(), goes_on), (BATCH + 3, true));
        stories.send(some(1)).unwrap();
        stories.send(some(2)).unwrap();
        let (gathered, goes_on) = gather(&mut inbox, &mut stopped).await;
        assert_eq!((gathered.len(), goes_on), (3, true));
        stories.send(some(4)).unwrap();
        stop.send(()).unwrap();
        let (gathered, goes_on) = gather(&mut inbox, &mut stopped).await;
        assert_eq!((gathered.len(), goes_on), (4, false));
    }
}
