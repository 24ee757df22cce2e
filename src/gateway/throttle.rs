//! Guessing is slowed: failures are counted per pair of user and client address, and per address alone (contract
//! section 2, `[login]`). Pure over the time it is given; bounded in memory.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use unicode_normalization::UnicodeNormalization;

use crate::clock::UnixMillis;
use crate::secret::KeyHash;
use crate::session::shared::Failures;

/// How many failures are too many.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// Per pair of user and address; ten times that per address alone.
    pub max_failures: u32,
    pub window: Duration,
}

/// An address may fail this many times as often as a pair: many users share one behind a NAT.
const ADDRESS_FACTOR: u32 = 10;
/// Counters of each kind that are kept at most, about 4 MB.
const MAX_COUNTERS: usize = 65_536;

/// All counters. Shared by all threads; asked once or twice a login, never by a checked request.
pub struct Throttle {
    pairs: Mutex<Counters<(u64, IpAddr)>>,
    addresses: Mutex<Counters<IpAddr>>,
    /// Names are kept as keyed hashes: a counter needs no more.
    key: RandomState,
}

/// One user and address that tries.
#[derive(Clone, Copy, Debug)]
pub struct Try {
    pair: (u64, IpAddr),
}

struct Counters<K> {
    by_key: HashMap<K, Counter>,
}

#[derive(Clone, Copy)]
struct Counter {
    failures: u32,
    /// The first failure: the window begins there.
    since: UnixMillis,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { pairs: Mutex::default(), addresses: Mutex::default(), key: RandomState::new() }
    }
}

impl Throttle {
    /// Spellings of one user share a counter, as do the addresses of one IPv6 network.
    #[must_use]
    pub fn of(&self, user: &str, address: IpAddr) -> Try {
        Try { pair: (self.key.hash_one(folded(user)), network(address)) }
    }

    /// How long until another try is answered; none: now.
    #[must_use]
    pub fn refused(&self, who: Try, now: UnixMillis, allowance: Allowance) -> Option<Duration> {
        let Allowance { max_failures, window } = allowance;
        let of_address = max_failures.saturating_mul(ADDRESS_FACTOR);
        let pair = lock(&self.pairs).refused(&who.pair, now, max_failures, window);
        let address = lock(&self.addresses).refused(&who.pair.1, now, of_address, window);
        pair.max(address)
    }

    /// Counts a failure.
    pub fn failed(&self, who: Try, now: UnixMillis, window: Duration) {
        lock(&self.pairs).failed(who.pair, now, window);
        lock(&self.addresses).failed(who.pair.1, now, window);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a try is called where replicas count together: of the pair, of the address alone. Hashes: no name is kept.
#[must_use]
pub fn names(user: &str, address: IpAddr) -> [String; 2] {
    let address = network(address);
    let name = |text: String| KeyHash::of(&text).to_string();
    [name(format!("pair {address} {}", folded(user))), name(format!("address {address}"))]
}

/// As [`Throttle::refused`], of what all replicas have counted.
#[must_use]
pub fn refused_by_all([pair, address]: [Failures; 2], allowance: Allowance) -> Option<Duration> {
    let over = |failures: Failures, most: u32| (failures.count >= u64::from(most)).then_some(failures.left);
    let of_address = allowance.max_failures.saturating_mul(ADDRESS_FACTOR);
    over(pair, allowance.max_failures).max(over(address, of_address))
}

/// One form for all spellings: compatibility forms (full width, ligatures) and combining marks are composed (NFKC),
/// letter case and what does not show are left out. That two users may share a counter so costs them nothing but a
/// shared allowance.
fn folded(user: &str) -> String {
    let is_invisible = |c: char| {
        c.is_control()
            || c.is_whitespace()
            || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
    };
    // Again behind the lower case: that of some letters is not composed.
    let lower: String = user.nfkc().filter(|c| !is_invisible(*c)).flat_map(char::to_lowercase).collect();
    lower.nfkc().flat_map(|c| if c == 'ß' { vec!['s', 's'] } else { vec![c] }).collect()
}

/// A client has a whole /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl<K> Default for Counters<K> {
    fn default() -> Self {
        Self { by_key: HashMap::new() }
    }
}

impl<K: Eq + Hash + Copy> Counters<K> {
    fn refused(&self, key: &K, now: UnixMillis, max: u32, window: Duration) -> Option<Duration> {
        let counter = self.by_key.get(key)?;
        let left = window.checked_sub(now.since(counter.since)).filter(|left| !left.is_zero())?;
        (counter.failures >= max).then_some(left)
    }

    fn failed(&mut self, key: K, now: UnixMillis, window: Duration) {
        if self.by_key.len() >= MAX_COUNTERS && !self.by_key.contains_key(&key) {
            self.make_room(now, window);
        }
        let counter = self.by_key.entry(key).or_insert(Counter { failures: 0, since: now });
        if now.since(counter.since) >= window {
            *counter = Counter { failures: 0, since: now };
        }
        counter.failures = counter.failures.saturating_add(1);
    }

    /// What has passed goes first, then the older half.
    fn make_room(&mut self, now: UnixMillis, window: Duration) {
        self.by_key.retain(|_, counter| now.since(counter.since) < window);
        if self.by_key.len() < MAX_COUNTERS {
            return;
        }
        let mut times: Vec<UnixMillis> = self.by_key.values().map(|counter| counter.since).collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        self.by_key.retain(|_, counter| counter.since > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALLOWANCE: Allowance = Allowance { max_failures: 3, window: Duration::from_millis(1000) };
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn fail(throttle: &Throttle, user: &str, address: IpAddr, at: u64) -> bool {
        let who = throttle.of(user, address);
        let refused = throttle.refused(who, UnixMillis(at), ALLOWANCE).is_some();
        if !refused {
            throttle.failed(who, UnixMillis(at), ALLOWANCE.window);
        }
        refused
    }

    #[test]
    fn the_fourth_failure_in_the_window_is_refused_until_the_window_ends() {
        let throttle = Throttle::default();
        assert_eq!([0, 1, 2, 3].map(|at| fail(&throttle, "a@d", HERE, at)), [false, false, false, true]);
        let who = throttle.of("a@d", HERE);
        assert_eq!(throttle.refused(who, UnixMillis(600), ALLOWANCE), Some(Duration::from_millis(400)));
        assert_eq!(throttle.refused(who, UnixMillis(1000), ALLOWANCE), None);
        assert!(!fail(&throttle, "b@d", HERE, 4), "another user");
        assert!(!fail(&throttle, "a@d", "192.0.2.2".parse().unwrap(), 4), "another address");
    }

    #[test]
    fn spellings_share_a_counter_and_so_do_addresses_of_one_network() {
        let throttle = Throttle::default();
        let from = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(!fail(&throttle, "a@d", from("2001:db8::1"), 0));
        assert!(!fail(&throttle, "A@D", from("2001:db8::2"), 0));
        assert!(!fail(&throttle, " a@D ", from("2001:db8::3"), 0));
        assert!(fail(&throttle, "a@d", from("2001:db8::4"), 0));
        for (spelling, other) in [
            ("\u{ff41}@d", "a@d"),
            ("\u{e9}", "e\u{301}"),
            ("\u{c9}", "\u{e9}"),
            ("a\u{200b}b", "ab"),
            ("stra\u{df}e", "STRASSE"),
            ("\u{212b}", "\u{e5}"),
        ] {
            assert_eq!(folded(spelling), folded(other), "{spelling} {other}");
        }
        assert_ne!(folded("a"), folded("\u{430}"), "another script's letter is another user");
        assert!(!fail(&throttle, "a@d", from("2001:db8:0:1::1"), 0));
    }

    #[test]
    fn an_address_may_fail_ten_times_as_often_over_many_users() {
        let throttle = Throttle::default();
        let tries: Vec<bool> = (0..31).map(|n| fail(&throttle, &format!("u{n}"), HERE, n)).collect();
        assert_eq!(tries.iter().position(|refused| *refused), Some(30));
    }

    #[test]
    fn the_counters_are_bounded() {
        let mut counters = Counters::default();
        for n in 0..200_000u64 {
            counters.failed(n, UnixMillis(n), Duration::from_secs(1_000_000));
        }
        assert!(counters.by_key.len() <= MAX_COUNTERS);
        assert!(counters.by_key.contains_key(&199_999));
    }

    #[test]
    fn replicas_call_one_try_the_same_and_refuse_at_the_same_count() {
        let of = |user: &str, address: &str| names(user, address.parse().unwrap());
        assert_eq!(of("A@d", "2001:db8::1"), of("a@D", "2001:db8::2"));
        let (a, b) = (of("a", "192.0.2.1"), of("b", "192.0.2.1"));
        assert!(a[0] != b[0] && a[1] == b[1] && a[0] != a[1]);
        let counted = |count| Failures { count, left: Duration::from_secs(7) };
        let refused = |pair, address| refused_by_all([counted(pair), counted(address)], ALLOWANCE);
        assert_eq!((refused(2, 29), refused(3, 0)), (None, Some(Duration::from_secs(7))));
        assert_eq!(refused(0, 30), Some(Duration::from_secs(7)));
    }

    proptest! {
        #[test]
        fn never_more_than_the_most_in_a_window(times in proptest::collection::vec(0u64..3000, 1..60)) {
            let mut times = times;
            times.sort_unstable();
            let throttle = Throttle::default();
            let counted: Vec<u64> = times.into_iter().filter(|at| !fail(&throttle, "a", HERE, *at)).collect();
            // A window begins with a failure, so two windows may meet: at most twice the most in any span.
            for (n, at) in counted.iter().enumerate() {
                let within = counted[n..].iter().take_while(|other| **other < at + 1000).count();
                prop_assert!(within <= 6);
            }
        }
    }
}
