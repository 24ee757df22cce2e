//! Three replicas under what may happen to them, in an order from a seed, against a model: no session that has ended is
//! granted, no live one is refused with 401.

use crate::replicas::{refused_for_good, status};
use crate::support::wait::until_async;
use crate::support::{Ask, PASSWORD, Redis, Session, TestGateway, TestUpstream};

const STEPS: usize = 250;

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

struct Scene {
    redis: Redis,
    gateways: Vec<TestGateway>,
    frozen: bool,
    alive: Vec<Session>,
    ended: Vec<Session>,
    /// Logouts that were answered 503: they end when Redis is back.
    leaving: Vec<(usize, Session)>,
}

impl Scene {
    async fn login(&mut self, at: usize) {
        let answer = self.gateways[at].ask(Ask::login("100@example.org", PASSWORD)).await;
        match answer.status {
            200 => self.alive.push(Session::of(answer.json())),
            503 => assert!(self.frozen, "503 though Redis is there"),
            other => panic!("a login was answered {other}"),
        }
    }

    async fn check(&self, at: usize, dice: &mut Dice) {
        if !self.alive.is_empty() {
            let session = &self.alive[dice.below(self.alive.len())];
            match status(&self.gateways[at], session).await {
                200 => {}
                503 => assert!(self.frozen, "503 though Redis is there"),
                other => panic!("a live session was answered {other}"),
            }
        }
        if !self.ended.is_empty() {
            let session = &self.ended[dice.below(self.ended.len())];
            assert_ne!(status(&self.gateways[at], session).await, 200, "an ended session was granted");
        }
        for (left, session) in &self.leaving {
            assert_ne!(status(&self.gateways[*left], session).await, 200, "granted where it logged out");
        }
    }

    async fn logout(&mut self, at: usize, dice: &mut Dice) {
        if self.alive.is_empty() {
            return;
        }
        let session = self.alive.swap_remove(dice.below(self.alive.len()));
        match self.gateways[at].ask(Ask::post("/logout").with(&session)).await.status {
            200 => {
                for gateway in &self.gateways {
                    refused(gateway, &session, self.frozen).await;
                }
                self.ended.push(session);
            }
            503 => {
                assert!(self.frozen, "503 though Redis is there");
                self.leaving.push((at, session));
            }
            other => panic!("a logout was answered {other}"),
        }
    }

    async fn end_all(&mut self, at: usize) {
        let ask = Ask::new("DELETE", "/sessions?user=100@example.org");
        match self.gateways[at].admin_ask(ask).await.status {
            204 => {
                for session in self.alive.drain(..) {
                    for gateway in &self.gateways {
                        refused(gateway, &session, self.frozen).await;
                    }
                    self.ended.push(session);
                }
            }
            503 => assert!(self.frozen, "503 though Redis is there"),
            other => panic!("an end of all was answered {other}"),
        }
    }

    async fn freeze(&mut self) {
        self.redis.freeze();
        self.frozen = true;
        let noticed = |gateway: &TestGateway| gateway.output().matches("Redis is away").count();
        let before: Vec<_> = self.gateways.iter().map(noticed).collect();
        for (gateway, before) in self.gateways.iter().zip(before) {
            until_async("it to be noticed", || async { noticed(gateway) > before }).await;
        }
    }

    async fn thaw(&mut self) {
        self.redis.thaw();
        for gateway in &self.gateways {
            until_async("logins to be taken", || async {
                gateway.ask(Ask::login("200@example.org", PASSWORD)).await.status == 200
            })
            .await;
        }
        self.frozen = false;
        for (_, session) in self.leaving.drain(..) {
            for gateway in &self.gateways {
                refused_for_good(gateway, &session).await;
            }
            self.ended.push(session);
        }
    }

    async fn restart(&mut self, at: usize) {
        // What it still owes would go with it; that is told to nobody as done.
        if !self.frozen {
            self.gateways[at].kill9();
            self.gateways[at].restart().await;
        }
    }
}

/// While Redis is there a refusal comes to all; while it is not, nobody who knew of it grants it again.
async fn refused(gateway: &TestGateway, session: &Session, frozen: bool) {
    if !frozen {
        until_async("the refusal", || async { status(gateway, session).await == 401 }).await;
    }
}

async fn play(seed: u64) {
    let Some(redis) = Redis::start().await else { return };
    let upstream = TestUpstream::start().await;
    let mut gateways = Vec::new();
    for _ in 0..3 {
        gateways.push(
            TestGateway::configured(&upstream, |settings| {
                redis.in_use(settings);
                settings.set("sessions.redis.max_stale", "'2s'");
            })
            .await,
        );
    }
    let mut dice = Dice(seed);
    let nothing = || (Vec::new(), Vec::new());
    let (alive, ended) = nothing();
    let mut scene = Scene { redis, gateways, frozen: false, alive, ended, leaving: Vec::new() };
    for step in 0..STEPS {
        let at = dice.below(3);
        println!("seed {seed}, step {step}, replica {at}, frozen {}", scene.frozen);
        match dice.below(40) {
            0..10 => scene.login(at).await,
            10..28 => scene.check(at, &mut dice).await,
            28..36 => scene.logout(at, &mut dice).await,
            36 => scene.end_all(at).await,
            37 => scene.restart(at).await,
            _ if scene.frozen => scene.thaw().await,
            38 => scene.freeze().await,
            _ => {}
        }
    }
    if scene.frozen {
        scene.thaw().await;
    }
    for gateway in &scene.gateways {
        for session in &scene.alive {
            assert_eq!(status(gateway, session).await, 200, "a live session was lost");
        }
        for session in &scene.ended {
            assert_eq!(status(gateway, session).await, 401, "an ended session is granted");
        }
    }
}

#[tokio::test]
async fn by_one_seed() {
    play(0x5eed_0001).await;
}

#[tokio::test]
async fn by_another_seed() {
    play(0x1234_5678_9abc_def1).await;
}
