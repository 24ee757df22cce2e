//! Counters of requests (contract section 7): one set a thread, summed when they are asked for. A request takes one
//! lock, which nobody else holds but a scrape. Labels are names of the configuration and words of the program, never
//! what a client sent.

use http::Method;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::histogram::Histogram;
use super::label::Label;

/// The `route` of a request that has none.
pub const NO_ROUTE: &str = "none";

/// What all threads have counted. Clones are the same.
#[derive(Clone, Default)]
pub struct Metrics {
    threads: Arc<Mutex<Vec<Arc<ThreadMetrics>>>>,
    logins: Arc<Words>,
    reloads: Arc<Words>,
}

/// Counters of seldom events by a word of the program.
type Words = Mutex<BTreeMap<&'static str, u64>>;

/// One thread's counters.
#[derive(Default)]
pub struct ThreadMetrics(Mutex<Counts>);

/// Found by the label's number.
#[derive(Default)]
pub(super) struct Counts {
    routes: Vec<Option<Box<(Label, RouteCounts)>>>,
    servers: Vec<Option<Box<(Label, ServerCounts)>>>,
}

/// What a route's requests came to.
#[derive(Clone, Default)]
pub struct RouteCounts {
    /// By method and status.
    pub requests: Tally<(&'static str, u16)>,
    /// By decision and reason.
    pub decisions: Tally<(&'static str, &'static str)>,
    pub durations: Histogram,
}

/// What a server was asked. Its label is `upstream/host:port`.
#[derive(Clone, Default)]
pub struct ServerCounts {
    /// By result.
    pub results: Tally<&'static str>,
    pub ejections: u64,
    /// Of requests that it could not be sent, by what became of the retry.
    pub retries: Tally<&'static str>,
    pub latency: Histogram,
}

/// A few counters: looked through in order, since there are seldom more than five.
#[derive(Clone)]
pub struct Tally<K>(Vec<(K, u64)>);

/// All threads' counters, by label.
#[derive(Default)]
pub struct Totals {
    pub routes: BTreeMap<String, RouteCounts>,
    pub servers: BTreeMap<String, ServerCounts>,
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Copy + PartialEq> Tally<K> {
    fn add(&mut self, key: K, n: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, count)) => *count += n,
            None => self.0.push((key, n)),
        }
    }

    fn merge(&mut self, other: &Self) {
        other.iter().for_each(|(key, n)| self.add(key, n));
    }

    pub fn iter(&self) -> impl Iterator<Item = (K, u64)> {
        self.0.iter().copied()
    }
}

/// A request that has ended.
pub(super) struct Ended<'e> {
    pub(super) route: &'e Label,
    pub(super) method: &'e Method,
    pub(super) status: u16,
    pub(super) took: Duration,
    /// Decision and reason; none where nothing was decided.
    pub(super) decision: Option<(&'static str, &'static str)>,
}

impl Metrics {
    /// Counters for a new thread. They stay when it ends: totals never fall.
    #[must_use]
    pub fn thread(&self) -> Arc<ThreadMetrics> {
        let thread = Arc::<ThreadMetrics>::default();
        lock(&self.threads).push(Arc::clone(&thread));
        thread
    }

    /// A login was answered.
    pub fn login(&self, result: &'static str) {
        *lock(&self.logins).entry(result).or_default() += 1;
    }

    /// A reload was tried.
    pub fn reload(&self, result: &'static str) {
        *lock(&self.reloads).entry(result).or_default() += 1;
    }

    #[must_use]
    pub fn logins(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.logins).clone()
    }

    #[must_use]
    pub fn reloads(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.reloads).clone()
    }

    /// The sums over all threads.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for thread in lock(&self.threads).iter() {
            let counts = thread.lock();
            for (label, route) in counts.routes.iter().flatten().map(|kept| &**kept) {
                let sum = totals.routes.entry(label.to_string()).or_default();
                sum.requests.merge(&route.requests);
                sum.decisions.merge(&route.decisions);
                sum.durations.merge(&route.durations);
            }
            for (label, server) in counts.servers.iter().flatten().map(|kept| &**kept) {
                let sum = totals.servers.entry(label.to_string()).or_default();
                sum.results.merge(&server.results);
                sum.ejections += server.ejections;
                sum.retries.merge(&server.retries);
                sum.latency.merge(&server.latency);
            }
        }
        totals
    }
}

impl ThreadMetrics {
    pub(super) fn lock(&self) -> MutexGuard<'_, Counts> {
        lock(&self.0)
    }

    /// A server was asked and did not answer; whether it is ejected for it.
    pub fn upstream_failed(&self, server: &Label, result: &'static str, is_ejected: bool) {
        let mut counts = self.lock();
        let server = counts.server(server);
        server.results.add(result, 1);
        server.ejections += u64::from(is_ejected);
    }

    /// A request that this server did not take was to be sent to another.
    pub fn upstream_retried(&self, server: &Label, result: &'static str) {
        self.lock().server(server).retries.add(result, 1);
    }
}

impl Counts {
    pub(super) fn ended(&mut self, ended: &Ended<'_>) {
        let counts = slot(&mut self.routes, ended.route);
        counts.requests.add((method_word(ended.method), ended.status), 1);
        counts.durations.add(ended.took);
        if let Some(decision) = ended.decision {
            counts.decisions.add(decision, 1);
        }
    }

    pub(super) fn answered(&mut self, server: &Label, latency: Option<Duration>) {
        let counts = self.server(server);
        counts.results.add("ok", 1);
        if let Some(latency) = latency {
            counts.latency.add(latency);
        }
    }

    fn server(&mut self, server: &Label) -> &mut ServerCounts {
        slot(&mut self.servers, server)
    }
}

fn slot<'s, C: Default>(slots: &'s mut Vec<Option<Box<(Label, C)>>>, label: &Label) -> &'s mut C {
    if slots.len() <= label.number() {
        slots.resize_with(label.number() + 1, || None);
    }
    // The index is there: it was just made.
    let slot = &mut slots[label.number()];
    &mut slot.get_or_insert_with(|| Box::new((Label::of(label), C::default()))).1
}

/// Methods that are no standard ones share a word: a client can make up any number of them.
pub(super) fn method_word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "other",
    }
}

/// Counters are numbers: none is half written by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_summed_by_label() {
        let metrics = Metrics::default();
        let end = |thread: &ThreadMetrics, route: &str, status| {
            thread.lock().ended(&Ended {
                route: &Label::of(route),
                method: &Method::GET,
                status,
                took: Duration::from_millis(1),
                decision: Some(("allow", "ok")),
            });
        };
        let (one, two) = (metrics.thread(), metrics.thread());
        end(&one, "/m/a", 200);
        end(&two, "/m/a", 200);
        end(&two, "/m/a", 404);
        end(&two, "/m/b", 200);
        let totals = metrics.totals();
        let a = &totals.routes["/m/a"];
        assert_eq!(a.requests.iter().collect::<Vec<_>>(), [(("GET", 200), 2), (("GET", 404), 1)]);
        assert_eq!((a.durations.count(), totals.routes["/m/b"].durations.count()), (3, 1));
        assert_eq!(a.decisions.iter().collect::<Vec<_>>(), [(("allow", "ok"), 3)]);
    }

    #[test]
    fn made_up_methods_share_a_word() {
        for name in ["FOO", "get", "PROPFIND"] {
            assert_eq!(method_word(&Method::from_bytes(name.as_bytes()).unwrap()), "other");
        }
    }

    #[test]
    fn a_servers_results_and_latency_are_counted() {
        let metrics = Metrics::default();
        let (thread, server) = (metrics.thread(), Label::of("engine/h:1"));
        thread.upstream_failed(&server, "unreachable", true);
        thread.upstream_retried(&server, "sent");
        thread.lock().answered(&server, Some(Duration::from_millis(2)));
        let totals = metrics.totals();
        let counts = &totals.servers["engine/h:1"];
        assert_eq!(counts.results.iter().collect::<Vec<_>>(), [("unreachable", 1), ("ok", 1)]);
        assert_eq!((counts.latency.count(), counts.ejections), (1, 1));
        assert_eq!(counts.retries.iter().collect::<Vec<_>>(), [("sent", 1)]);
    }
}
