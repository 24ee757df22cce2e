//! Keeps the slices short that hashing threads take from requests.
//!
//! A hash computes for tens of milliseconds without a pause. Where a request's thread waits for the same core, Linux looks
//! only at its tick whether the hash has had its share: 4 ms later with 250 ticks a second, and each of the requests that
//! stand in line is as late. So hashing threads say that requests come first ([`gives_way`]), and while they compute a
//! thread of each core wakes every half millisecond for nothing: each time the scheduler chooses anew, by what each has had.
//! That is 2,000 wakings a second and core, 0.3 % of it, and none while nobody logs in.

use rustix::process::{getpriority_process, setpriority_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{JoinHandle, park, sleep};
use std::time::Duration;

/// How often each core chooses anew.
const EVERY: Duration = Duration::from_micros(500);
/// What is added to a hashing thread's nice value: a tenth of a core that requests could fill, all of one that they leave.
const NICER: i32 = 10;

/// Wakes cores while something is computed.
pub(super) struct Pace {
    under_way: Arc<AtomicUsize>,
    /// One a core.
    threads: Vec<JoinHandle<()>>,
}

impl Pace {
    pub(super) fn start() -> std::io::Result<Self> {
        let under_way = Arc::new(AtomicUsize::new(0));
        let threads = cores().into_iter().map(|core| {
            let under_way = Arc::clone(&under_way);
            let name = format!("pace-{core}");
            std::thread::Builder::new().name(name).spawn(move || keep(core, &under_way))
        });
        Ok(Self { threads: threads.collect::<Result<_, _>>()?, under_way })
    }

    pub(super) fn during<T>(&self, compute: impl FnOnce() -> T) -> T {
        if self.under_way.fetch_add(1, Ordering::Relaxed) == 0 {
            self.threads.iter().for_each(|thread| thread.thread().unpark());
        }
        let computed = compute();
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        computed
    }
}

/// Where the process may run.
fn cores() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

fn keep(core: usize, under_way: &AtomicUsize) {
    let mut only = CpuSet::new();
    only.set(core);
    // A core that was taken away since: then this thread wakes another one, which hurts nobody.
    let _: Result<(), _> = sched_setaffinity(None, &only);
    loop {
        match under_way.load(Ordering::Relaxed) {
            0 => park(),
            _ => sleep(EVERY),
        }
    }
}

/// The thread that calls it computes when others have nothing to do, and a little when they have.
pub(super) fn gives_way() {
    // Linux knows a nice value of each thread (sched(7)). Without one all goes on, less evenly.
    if let Ok(nice) = getpriority_process(None) {
        let _: Result<(), _> = setpriority_process(None, (nice + NICER).min(19));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// How often a thread of this core has slept: there may be more than one, of other tests.
    fn pauses(core: usize) -> Option<u64> {
        let tasks = fs::read_dir("/proc/self/task").ok()?.flatten().map(|task| task.path());
        let named = format!("pace-{core}");
        let is_named = |task: &std::path::PathBuf| {
            fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim_end() == named)
        };
        let pauses = |task: std::path::PathBuf| {
            let status = fs::read_to_string(task.join("status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse().ok()
        };
        tasks.filter(is_named).filter_map(pauses).max()
    }

    #[test]
    fn every_core_chooses_anew_while_something_is_computed() {
        let pace = Pace::start().unwrap();
        assert_eq!(pace.threads.len(), cores().len());
        assert!(!pace.threads.is_empty());
        pace.during(|| {
            for core in cores() {
                while pauses(core).is_none_or(|pauses| pauses < 20) {
                    std::thread::yield_now();
                }
            }
        });
        assert_eq!(pace.under_way.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_thread_that_gives_way_is_the_only_one() {
        let nice = || getpriority_process(None).unwrap();
        let before = nice();
        let (given, of_another) = std::thread::spawn(move || {
            gives_way();
            (nice(), std::thread::spawn(nice).join().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!((given, nice()), ((before + NICER).min(19), before));
        assert_eq!(of_another, given, "what it starts is like it");
    }
}
