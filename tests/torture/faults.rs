//! The stage and what befalls it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use relay_testkit::{PrivatePostgres, Proxy, Toward};
use tokio::time::sleep;

use crate::{
    cast::Actor,
    changes::Office,
    crowd::Crowd,
    ledger::Clock,
    nodes::Nodes,
    plan::{Change, Deed, Fall, Harm, Role, Strike, Wire},
};

/// Everything that can be struck.
pub(crate) struct Stage {
    pub(crate) broker: Nodes,
    pub(crate) database: tokio::sync::Mutex<Option<PrivatePostgres>>,
    pub(crate) cast: Vec<Arc<Actor>>,
    pub(crate) crowd: Arc<Crowd>,
    pub(crate) office: Office,
    /// The wires of the AMQP producers.
    pub(crate) producers: Vec<Arc<Proxy>>,
    pub(crate) struck: Struck,
    pub(crate) clock: Clock,
}

/// What happened so far, by kind: how often, and how often it could not be done.
#[derive(Default)]
pub(crate) struct Struck(Mutex<BTreeMap<String, (u32, u32)>>);

impl Struck {
    fn note(&self, deed: Deed, done: bool) {
        let mut struck = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (times, skipped) = struck.entry(deed.to_string()).or_default();
        *(if done { times } else { skipped }) += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, (u32, u32)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Stage {
    /// Does what the schedule says, and returns when all that it ends runs again.
    pub(crate) async fn strike(&self, strike: &Strike) {
        let Strike {
            deed, target, lasts, ..
        } = *strike;
        let mut done = true;
        if matches!(deed, Deed::Wire(Wire::Database, _) | Deed::Database(_)) {
            self.crowd.database_fails(self.clock.now());
        }
        match deed {
            Deed::Kill(role) => self.actor(role, target).fall(true, lasts).await,
            Deed::Terminate(role) => self.actor(role, target).fall(false, lasts).await,
            Deed::Wire(wire, harm) => match self.wire(wire, target) {
                Some(wire) => hurt(wire, harm, strike).await,
                None => done = false,
            },
            Deed::Broker(fall) => done = self.broker.fall(fall, target, lasts).await,
            Deed::Isolate => done = self.broker.isolate(target, lasts).await,
            Deed::KillAllNodes => done = self.broker.kill_all().await,
            Deed::Alarm => done = self.broker.alarm(target, lasts).await,
            Deed::Database(fall) => self.database_falls(fall, lasts).await,
            Deed::Receiver => self.receiver_stops(target, lasts).await,
            Deed::Endpoint(Change::Add) => done = self.endpoint_is_added().await,
            Deed::Endpoint(change) => done = self.office.change(change, lasts).await,
        }
        self.struck.note(deed, done);
    }

    /// Lets all wires be. What was ended is started again by whoever ended it.
    pub(crate) fn heal(&self) {
        self.cast.iter().for_each(|actor| actor.heal());
        let places = self.crowd.places.iter().map(|place| &place.wire);
        for wire in places.chain(self.producers.iter().map(|wire| &**wire)) {
            wire.freeze(false);
            wire.refuse(false);
        }
    }

    pub(crate) fn actor(&self, role: Role, number: usize) -> &Actor {
        let mut of_role = self.cast.iter().filter(|actor| actor.role == role);
        of_role.nth(number).unwrap()
    }

    fn wire(&self, wire: Wire, target: usize) -> Option<&Proxy> {
        match wire {
            Wire::Broker(role) => Some(&self.actor(role, target).broker),
            Wire::Database => self.cast[target].database.as_ref(),
            Wire::Producer => Some(&self.producers[target]),
            Wire::Gateway => self.actor(Role::Gateway, target).front.as_ref(),
            Wire::Receiver => Some(&self.crowd.places[target].wire),
        }
    }

    async fn database_falls(&self, fall: Fall, down: Duration) {
        let mut database = self.database.lock().await;
        if let Some(database) = database.as_mut() {
            match fall {
                Fall::Kill => database.kill().await,
                Fall::Stop => database.stop().await,
            }
            sleep(down).await;
            database.start().await;
        }
    }

    /// Not while a node is away: in RabbitMQ 3.10 the member of a new queue that starts late on its node
    /// never confirms what comes to it from a delay, and soon nothing leaves that delay.
    async fn endpoint_is_added(&self) -> bool {
        let Some(_nodes) = self.broker.turn().await else {
            return false;
        };
        self.office.change(Change::Add, Duration::ZERO).await
    }

    async fn receiver_stops(&self, target: usize, down: Duration) {
        let place = &self.crowd.places[target];
        let _alone = place.door.lock().await;
        let receiver = &place.receiver;
        receiver.stop().await;
        sleep(down).await;
        receiver.restart().await;
    }
}

async fn hurt(wire: &Proxy, harm: Harm, strike: &Strike) {
    match harm {
        Harm::Cut => wire.cut(),
        Harm::Close => wire.close(),
        Harm::Freeze => {
            wire.freeze(true);
            sleep(strike.lasts).await;
            wire.freeze(false);
        }
        Harm::Refuse => {
            wire.refuse(true);
            wire.cut();
            sleep(strike.lasts).await;
            wire.refuse(false);
        }
        Harm::CutDown | Harm::CutUp => {
            let toward = match harm {
                Harm::CutDown => Toward::Client,
                _ => Toward::Upstream,
            };
            wire.cut_after(toward, strike.bytes);
            wire.cut();
        }
    }
}
