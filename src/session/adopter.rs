//! Asking an engine about sessions and tokens that it made (contract section 2, `[sessions.adopt]`): once for all who ask
//! at the same time, a no remembered for a moment, never more often than the configuration allows. Whoever asks has
//! checked the token's signature.

use moka::future::Cache;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::adopted::{Adopted, Rights};
use crate::clock::{UnixMillis, monotonic};
use crate::engine::{Engine, Whoami};
use crate::secret::sha256;

/// `[sessions.adopt]`
#[derive(Clone, Debug)]
pub struct AdoptSettings {
    pub engine: crate::engine::EngineSettings,
    pub revalidate: Duration,
    /// `rights = "roles"`: `[roles]` by the role's name, instead of the acl that the engine answered.
    pub by_role: bool,
    pub negative_ttl: Duration,
    pub max_lookups_per_second: u32,
}

/// What the engine said; a `T` is what was made of a caller whom it knows.
#[derive(Clone, Debug)]
pub enum Said<T> {
    Knows(T),
    DoesNotKnow,
    /// It could not be asked, or was asked too often.
    Nothing,
}

/// How many noes are remembered: a flood of them forgets the oldest and meets the limit of questions.
const REMEMBERED: u64 = 100_000;

/// After a failure nobody asks for so long: those who wait on a dead engine are let go at once.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a known session goes on before it is asked about again after the engine could not be asked.
const AGAIN: Duration = Duration::from_secs(5);

/// Asks one engine. Shared by all threads; belongs to the configuration.
pub struct Adopter {
    engine: Arc<Engine>,
    settings: AdoptSettings,
    noes: Cache<[u8; 32], ()>,
    allowance: Mutex<Allowance>,
    paused: Mutex<Option<Instant>>,
    shed: AtomicU64,
}

/// Whom a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nobody here knows him yet. A part of the questions of a second is not for these: who has one good token can make
    /// up keys without end.
    Unknown,
    /// He is known, and the engine may have ended him since.
    Known,
}

/// What is not remembered.
enum Other<T> {
    Knows(T),
    Nothing,
}

impl Adopter {
    #[must_use]
    pub fn new(engine: Arc<Engine>, settings: AdoptSettings) -> Self {
        let noes = Cache::builder().max_capacity(REMEMBERED).time_to_live(settings.negative_ttl).build();
        let allowance = Mutex::new(Allowance::new(settings.max_lookups_per_second));
        Self { engine, settings, noes, allowance, paused: Mutex::default(), shed: AtomicU64::new(0) }
    }

    /// The rights of a caller whom the engine knows.
    #[must_use]
    pub fn rights(&self, caller: &Whoami) -> Rights {
        if self.settings.by_role { Rights::OfRole } else { Rights::Listed(Arc::new(caller.acl.clone())) }
    }

    /// `rights = "roles"`
    #[must_use]
    pub fn is_by_role(&self) -> bool {
        self.settings.by_role
    }

    /// Whether the engine's last answer is too old at `now`.
    #[must_use]
    pub fn is_stale(&self, adopted: &Adopted, now: UnixMillis) -> bool {
        now.since(adopted.asked()) >= self.settings.revalidate
    }

    /// Lets one that is known go on: it is asked about again before long.
    pub fn ask_again_soon(&self, adopted: &Adopted, now: UnixMillis) {
        let back = self.settings.revalidate.saturating_sub(AGAIN);
        adopted
            .set_asked(UnixMillis(now.0.saturating_sub(u64::try_from(back.as_millis()).unwrap_or(u64::MAX))));
    }

    /// Asks about credentials whose token is of good signature; `key`: none for a domain token. All who ask about the
    /// same at once share one question and what `take` makes of its answer. `known` is looked at behind those who
    /// asked just before: what they have made is not asked for again.
    pub async fn ask<T: Clone + Send + Sync + 'static>(
        &self,
        (whom, token, key): (Asked, &str, Option<&str>),
        known: impl FnOnce() -> Option<T>,
        take: impl AsyncFnOnce(Whoami) -> T,
    ) -> Said<T> {
        let answer = async {
            if let Some(known) = known() {
                return Err(Other::Knows(known));
            }
            // A no is the value that is remembered; all else is an error, which the waiting share and nobody keeps.
            match self.answer(whom, token, key).await {
                Said::Knows(caller) => Err(Other::Knows(take(caller).await)),
                Said::DoesNotKnow => Ok(()),
                Said::Nothing => Err(Other::Nothing),
            }
        };
        let asked = self.noes.try_get_with(question(token, key), answer).await;
        match asked.as_ref().map_err(Arc::as_ref) {
            Ok(()) => Said::DoesNotKnow,
            Err(Other::Knows(made)) => Said::Knows(made.clone()),
            Err(Other::Nothing) => Said::Nothing,
        }
    }

    /// How many questions were not asked because there were too many.
    #[must_use]
    pub fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }

    async fn answer(&self, whom: Asked, token: &str, key: Option<&str>) -> Said<Whoami> {
        if self.is_paused() {
            return Said::Nothing;
        }
        if !self.allowance.lock().unwrap_or_else(PoisonError::into_inner).take(whom, monotonic()) {
            self.shed.fetch_add(1, Ordering::Relaxed);
            return Said::Nothing;
        }
        match self.engine.whoami(token, key).await {
            Ok(Some(caller)) => Said::Knows(caller),
            Ok(None) => Said::DoesNotKnow,
            Err(error) if error.is_busy => {
                self.shed.fetch_add(1, Ordering::Relaxed);
                Said::Nothing
            }
            // Or one malformed question would keep the engine from being asked about all others.
            Err(error) if error.is_refusal => {
                tracing::debug!(%error, "the engine does not take a question");
                Said::Nothing
            }
            Err(error) => {
                tracing::warn!(%error, "known sessions go on, unknown ones are answered 503");
                *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = Some(monotonic() + PAUSE);
                Said::Nothing
            }
        }
    }

    fn is_paused(&self) -> bool {
        let until = *self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| monotonic() < until)
    }
}

/// Tells one pair of credentials from all others, and nothing of them.
fn question(token: &str, key: Option<&str>) -> [u8; 32] {
    let key = key.map_or([0; 32], |key| sha256(key.as_bytes()));
    let mut both = [0; 64];
    both[..32].copy_from_slice(&sha256(token.as_bytes()));
    both[32..].copy_from_slice(&key);
    sha256(&both)
}

/// So many questions a second, and as many at once.
struct Allowance {
    per_second: f64,
    left: f64,
    since: Option<Instant>,
}

impl Allowance {
    fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, left: per_second, since: None }
    }

    fn take(&mut self, whom: Asked, now: Instant) -> bool {
        if let Some(since) = self.since {
            let passed = now.saturating_duration_since(since).as_secs_f64();
            self.left = (self.left + passed * self.per_second).min(self.per_second.max(1.0));
        }
        self.since = Some(now);
        let kept = if whom == Asked::Unknown { (self.per_second / 4.0).floor() } else { 0.0 };
        let may = self.left >= 1.0 + kept;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_questions_a_second_are_allowed_and_as_many_at_once() {
        let (mut allowance, start) = (Allowance::new(2), monotonic());
        let at = |ms| start + Duration::from_millis(ms);
        let taken: Vec<_> = [0, 0, 0, 499, 500, 600, 5000, 5000, 5000]
            .map(|ms| allowance.take(Asked::Unknown, at(ms)))
            .into();
        assert_eq!(taken, [true, true, false, false, true, false, true, true, false]);
    }

    #[test]
    fn a_quarter_is_for_those_who_are_known() {
        let (mut allowance, now) = (Allowance::new(40), monotonic());
        let mut taken = |whom| (0..100).filter(|_| allowance.take(whom, now)).count();
        assert_eq!((taken(Asked::Unknown), taken(Asked::Known), taken(Asked::Unknown)), (30, 10, 0));
    }

    #[test]
    fn a_question_is_of_one_pair_of_credentials() {
        let all = [
            question("t", None),
            question("t", Some("k")),
            question("t", Some("")),
            question("k", Some("t")),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(!all[n + 1..].contains(one));
        }
    }
}
