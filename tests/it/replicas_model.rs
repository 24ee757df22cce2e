//! Three replicas under what may happen to them, in an order from a seed, against a model: no session that has ended is
//! granted after its bound, no live one is refused with 401. Each replica has a wire of its own to Redis, which is cut in one
//! direction or in both while the others go on; Redis is frozen, and killed and started again.
//!
//! `POSTERN_MODEL_STEPS` makes a long run of it, `POSTERN_MODEL_SEED` another one: by `cargo test`, which ends no test.

use std::time::{Duration, Instant};

use crate::replicas::status;
use crate::support::wait::until_async;
use crate::support::{Ask, PASSWORD, Redis, Session, TestGateway, TestUpstream, Wire};

const STEPS: usize = 250;
const REPLICAS: usize = 3;
/// Of those that ended last, when a replica is back.
const LOOKED_AT: usize = 200;
const MAX_STALE: &str = "'2s'";
/// `max_stale`, and how long it may take until it is noticed that nothing is heard, on a machine that does much beside.
const BOUND: Duration = Duration::from_secs(4);

/// xorshift64*: the order is the seed's alone.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % most
    }
}

/// What keeps all replicas from Redis.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    None,
    Frozen,
    Killed,
}

struct Replica {
    gateway: TestGateway,
    wire: Wire,
    is_cut: bool,
    /// Logouts that it answered 503: they end when Redis is back.
    leaving: Vec<Session>,
}

struct Scene {
    _upstream: TestUpstream,
    redis: Redis,
    trouble: Trouble,
    replicas: Vec<Replica>,
    alive: Vec<Session>,
    ended: Vec<(Session, Instant)>,
    /// What was done, for the end of a long run.
    grants: usize,
    refusals: usize,
    troubles: usize,
}

impl Scene {
    fn is_away(&self, at: usize) -> bool {
        self.trouble != Trouble::None || self.replicas[at].is_cut
    }

    fn gateway(&self, at: usize) -> &TestGateway {
        &self.replicas[at].gateway
    }

    /// 503 is an answer of a replica that does not reach Redis, and of no other.
    fn may_be_unavailable(&self, at: usize) {
        assert!(self.is_away(at), "503 though Redis is there");
    }

    async fn login(&mut self, at: usize) {
        let answer = self.gateway(at).ask(Ask::login("100@example.org", PASSWORD)).await;
        match answer.status {
            200 => self.alive.push(Session::of(answer.json())),
            503 => self.may_be_unavailable(at),
            other => panic!("a login was answered {other}"),
        }
    }

    async fn check(&mut self, at: usize, dice: &mut Dice) {
        if !self.alive.is_empty() {
            let session = &self.alive[dice.below(self.alive.len())];
            match status(self.gateway(at), session).await {
                200 => self.grants += 1,
                503 => self.may_be_unavailable(at),
                other => panic!("a live session was answered {other}"),
            }
        }
        if !self.ended.is_empty() {
            let which = dice.below(self.ended.len());
            self.refuses(at, which).await;
        }
        for session in &self.replicas[at].leaving {
            assert_ne!(status(self.gateway(at), session).await, 200, "granted where it logged out");
        }
    }

    /// One that does not hear of ends grants what it knows for a while; how long, is what is judged.
    async fn refuses(&mut self, at: usize, which: usize) {
        let (session, ended) = &self.ended[which];
        let asked = ended.elapsed();
        let is_granted = status(self.gateway(at), session).await == 200;
        let may_be = self.is_away(at) && asked < BOUND;
        assert!(!is_granted || may_be, "an ended session was granted {asked:?} after its end");
        self.refusals += usize::from(!is_granted);
    }

    async fn logout(&mut self, at: usize, dice: &mut Dice) {
        if self.alive.is_empty() {
            return;
        }
        let session = self.alive.swap_remove(dice.below(self.alive.len()));
        match self.gateway(at).ask(Ask::post("/logout").with(&session)).await.status {
            200 => self.ends(session).await,
            503 => {
                self.may_be_unavailable(at);
                self.replicas[at].leaving.push(session);
            }
            other => panic!("a logout was answered {other}"),
        }
    }

    /// It ended: those who hear of it refuse it at once, the others no later than they may.
    #[expect(clippy::disallowed_methods, reason = "the time of an end is what grants are judged by")]
    async fn ends(&mut self, session: Session) {
        for at in (0..REPLICAS).filter(|at| !self.is_away(*at)) {
            until_async("the refusal", || async { status(self.gateway(at), &session).await == 401 }).await;
        }
        self.ended.push((session, Instant::now()));
    }

    async fn end_many(&mut self, at: usize, filter: &str) {
        let ask = Ask::new("DELETE", format!("/sessions?{filter}"));
        match self.gateway(at).admin_ask(ask).await.status {
            204 => {
                for session in std::mem::take(&mut self.alive) {
                    self.ends(session).await;
                }
            }
            503 => self.may_be_unavailable(at),
            other => panic!("an end of many was answered {other}"),
        }
    }

    /// Waits until a replica has noticed that Redis is away.
    async fn notices(&self, at: usize) {
        let login = || Ask::login("200@example.org", PASSWORD);
        until_async("it to be noticed", || async { self.gateway(at).ask(login()).await.status == 503 }).await;
    }

    async fn trouble(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Frozen => self.redis.freeze(),
            Trouble::Killed => self.redis.kill(),
            Trouble::None => {}
        }
        self.trouble = trouble;
        self.troubles += 1;
        for at in 0..REPLICAS {
            self.notices(at).await;
        }
    }

    async fn cut(&mut self, at: usize, dice: &mut Dice) {
        let (to, from) = [(true, false), (false, true), (true, true)][dice.below(3)];
        self.replicas[at].wire.cut(to, from);
        self.replicas[at].is_cut = true;
        self.troubles += 1;
        self.notices(at).await;
    }

    /// Redis is back, or one replica's way to it.
    async fn mend(&mut self, at: usize) {
        match self.trouble {
            Trouble::None => {
                self.replicas[at].wire.cut(false, false);
                self.replicas[at].is_cut = false;
            }
            Trouble::Frozen => self.redis.thaw(),
            Trouble::Killed => self.redis.run().await,
        }
        self.trouble = Trouble::None;
        for at in 0..REPLICAS {
            if !self.replicas[at].is_cut {
                self.is_back(at).await;
            }
        }
    }

    /// It grants nothing that ended while it was away, and what it could not tell is told.
    async fn is_back(&mut self, at: usize) {
        let login = || Ask::login("200@example.org", PASSWORD);
        until_async("logins to be taken", || async { self.gateway(at).ask(login()).await.status == 200 })
            .await;
        for which in self.ended.len().saturating_sub(LOOKED_AT)..self.ended.len() {
            self.refuses(at, which).await;
        }
        for session in std::mem::take(&mut self.replicas[at].leaving) {
            self.ends(session).await;
        }
    }

    async fn restart(&mut self, at: usize) {
        // What it still owes would go with it; that is told to nobody as done.
        if !self.is_away(at) && self.replicas[at].leaving.is_empty() {
            let replica = &mut self.replicas[at];
            replica.gateway.kill9();
            replica.gateway.restart().await;
        }
    }

    async fn step(&mut self, dice: &mut Dice) {
        let at = dice.below(REPLICAS);
        let is_one_cut = self.replicas[at].is_cut;
        match dice.below(80) {
            0..26 => self.login(at).await,
            26..62 => self.check(at, dice).await,
            62..71 => self.logout(at, dice).await,
            71 => self.end_many(at, "user=100@example.org").await,
            72 => {
                self.end_many(at, ["domain=example.org", "before=2100-01-01T00:00:00Z"][dice.below(2)]).await
            }
            73..75 => self.restart(at).await,
            75.. if self.trouble != Trouble::None || is_one_cut => self.mend(at).await,
            75..78 => self.cut(at, dice).await,
            78 => self.trouble(Trouble::Frozen).await,
            _ => self.trouble(Trouble::Killed).await,
        }
    }

    async fn comes_to_rest(&mut self) {
        if self.trouble != Trouble::None {
            self.mend(0).await;
        }
        for at in 0..REPLICAS {
            self.mend(at).await;
        }
        for at in 0..REPLICAS {
            for session in &self.alive {
                assert_eq!(status(self.gateway(at), session).await, 200, "a live session was lost");
            }
            for (session, _) in &self.ended {
                assert_eq!(status(self.gateway(at), session).await, 401, "an ended session is granted");
            }
        }
    }
}

async fn scene() -> Option<Scene> {
    // What is killed has kept what it answered.
    let args = ["--appendonly", "yes", "--appendfsync", "always", "--dir", "FOLDER"];
    let redis = Redis::with(&args).await?;
    let upstream = TestUpstream::start().await;
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        let wire = redis.wire().await;
        let gateway = TestGateway::configured(&upstream, |settings| {
            wire.in_use(settings);
            settings.set("sessions.redis.max_stale", MAX_STALE);
        })
        .await;
        replicas.push(Replica { gateway, wire, is_cut: false, leaving: Vec::new() });
    }
    let (alive, ended) = (Vec::new(), Vec::new());
    let trouble = Trouble::None;
    let scene = Scene {
        _upstream: upstream,
        redis,
        trouble,
        replicas,
        alive,
        ended,
        grants: 0,
        refusals: 0,
        troubles: 0,
    };
    Some(scene)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

async fn play(seed: u64) {
    let Some(mut scene) = scene().await else { return };
    let seed = number("POSTERN_MODEL_SEED").unwrap_or(seed);
    let steps = number("POSTERN_MODEL_STEPS").map_or(STEPS, |steps| usize::try_from(steps).unwrap());
    let mut dice = Dice(seed);
    for step in 0..steps {
        println!("seed {seed:#x}, step {step}, {} alive, {} ended", scene.alive.len(), scene.ended.len());
        scene.step(&mut dice).await;
    }
    scene.comes_to_rest().await;
    let Scene { grants, refusals, troubles, ended, .. } = scene;
    println!(
        "seed {seed:#x}: {grants} granted, {} ended, {refusals} refused, {troubles} outages",
        ended.len()
    );
}

#[tokio::test]
async fn by_one_seed() {
    play(0x5eed_0001).await;
}

#[tokio::test]
async fn by_another_seed() {
    play(0x1234_5678_9abc_def1).await;
}

#[tokio::test]
async fn by_a_third_seed() {
    play(0x0bad_cafe_0042_4242).await;
}
