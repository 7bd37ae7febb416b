//! Connection limits: a global limit, a share per address, and a reserve for health and metrics.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use crate::settings::Settings;

/// Margin below the system's capacity: a connection is accepted before another one is closed.
const SPARE: usize = 4;

/// Granularity of body accounting, in bytes.
const UNIT: usize = 1024;

/// One client: an IPv4 address, or an IPv6 /64, within which a host chooses its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Client(IpAddr);

impl Client {
    fn new(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()),
            address => Self(address),
        }
    }
}

/// Reason why a connection is in the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beyond {
    /// The client has used up its share.
    Share,
    /// The global limit is reached.
    All,
}

#[derive(Debug)]
struct Open {
    client: Client,
    beyond: Option<Beyond>,
    /// True while it waits for its client: closing it loses nothing.
    waits: Arc<AtomicBool>,
    task: Option<AbortHandle>,
}

#[derive(Debug)]
struct PerClient {
    connections: usize,
    bodies: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Ordered by age.
    open: BTreeMap<u64, Open>,
    clients: HashMap<Client, PerClient>,
    /// Connections outside the reserve.
    ordinary: usize,
    connections: usize,
    /// Peak number of connections.
    highest: usize,
    next: u64,
}

/// Connection accounting of a server.
#[derive(Debug)]
pub(super) struct Places {
    taken: Mutex<Taken>,
    share: usize,
    reserve: usize,
    /// Memory for bodies, and each client's part of it.
    bodies: Arc<Semaphore>,
    share_of_bodies: usize,
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize))
}

impl Places {
    pub(super) fn new(settings: &Settings) -> Self {
        let share_of_bodies = units((settings.bodies / 4).max(settings.max_body));
        Self {
            taken: Mutex::new(Taken { connections: settings.connections.max(1), ..Taken::default() }),
            share: settings.share.max(1),
            reserve: settings.reserve.max(1),
            bodies: Arc::new(Semaphore::new(units(settings.bodies).max(share_of_bodies))),
            share_of_bodies,
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Nothing panics while holding the lock.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a client, in the reserve if there is no ordinary place; the oldest connection of the client with the most
    /// reserve connections makes room.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Place {
        let client = Client::new(address);
        let mut taken = self.taken();
        let taken = &mut *taken;
        let own = taken
            .clients
            .entry(client)
            .or_insert_with(|| PerClient { connections: 0, bodies: Arc::new(Semaphore::new(self.share_of_bodies)) });
        let beyond = if own.connections >= self.share {
            Some(Beyond::Share)
        } else {
            (taken.ordinary >= taken.connections).then_some(Beyond::All)
        };
        own.connections += 1;
        let bodies = own.bodies.clone();
        taken.ordinary += usize::from(beyond.is_none());
        if beyond.is_some() && taken.open.values().filter(|o| o.beyond.is_some()).count() >= self.reserve {
            taken.close_one(|open| open.beyond.is_some());
        }
        let number = taken.next;
        taken.next += 1;
        let waits = Arc::new(AtomicBool::new(true));
        taken.open.insert(number, Open { client, beyond, waits: waits.clone(), task: None });
        taken.highest = taken.highest.max(taken.open.len());
        Place { places: self.clone(), number, beyond, waits, bodies }
    }

    /// The system is out of room: lowers the limit so that the reserve still fits. Closes excess connections that wait
    /// for their clients, else one of the reserve.
    pub(super) fn shrink(&self) {
        let mut taken = self.taken();
        let room = taken.highest.saturating_sub(self.reserve + SPARE);
        taken.connections = taken.connections.min(room).max(1);
        let mut closed = false;
        while taken.ordinary > taken.connections
            && taken.close_one(|open| open.beyond.is_none() && open.waits.load(Ordering::Relaxed))
        {
            closed = true;
        }
        if !closed {
            taken.close_one(|open| open.beyond.is_some());
        }
    }
}

impl Taken {
    /// Closes the oldest matching connection of the client with the most matching ones.
    fn close_one(&mut self, fits: impl Fn(&Open) -> bool) -> bool {
        let fitting = || self.open.iter().filter(|(_, o)| o.task.as_ref().is_some_and(|t| !t.is_finished()) && fits(o));
        let mut counts = HashMap::<Client, usize>::new();
        for (_, open) in fitting() {
            *counts.entry(open.client).or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or(0);
        let Some(number) = fitting().find(|(_, o)| counts.get(&o.client) == Some(&most)).map(|(n, _)| *n) else {
            return false;
        };
        self.leave(number).and_then(|open| open.task).inspect(AbortHandle::abort);
        true
    }

    fn leave(&mut self, number: u64) -> Option<Open> {
        let open = self.open.remove(&number)?;
        self.ordinary -= usize::from(open.beyond.is_none());
        if let Some(own) = self.clients.get_mut(&open.client) {
            own.connections -= 1;
            if own.connections == 0 {
                self.clients.remove(&open.client);
            }
        }
        Some(open)
    }
}

/// A connection slot, freed on drop.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    beyond: Option<Beyond>,
    waits: Arc<AtomicBool>,
    bodies: Arc<Semaphore>,
}

/// Memory reserved for a body, freed on drop.
#[derive(Debug)]
pub(crate) struct Room {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Place {
    /// Number of this connection, for [`Places::serves`].
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Reason why it is in the reserve, if it is.
    pub(super) fn beyond(&self) -> Option<Beyond> {
        self.beyond
    }

    /// Records if the connection waits for its client.
    pub(super) fn waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::Relaxed);
    }

    /// Waits for memory for a body of at most [`Settings::max_body`] bytes.
    pub(super) async fn room(&self, bytes: usize) -> Option<Room> {
        let count = u32::try_from(units(bytes)).unwrap_or(u32::MAX);
        // The semaphores are never closed.
        let own = self.bodies.clone().acquire_many_owned(count).await.ok()?;
        let all = self.places.bodies.clone().acquire_many_owned(count).await.ok()?;
        Some(Room { _own: own, _all: all })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().leave(self.number);
    }
}

impl Places {
    /// Registers the task that serves connection `number`, so that it can be aborted.
    pub(super) fn serves(&self, number: u64, task: AbortHandle) {
        if let Some(open) = self.taken().open.get_mut(&number) {
            open.task = Some(task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(connections: usize, share: usize, reserve: usize) -> Arc<Places> {
        Arc::new(Places::new(&Settings { connections, share, reserve, ..Settings::default() }))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_a_share_and_all_together_have_a_limit() {
        let places = places(3, 2, 1);
        let first = [(); 2].map(|()| places.enter(ip("10.0.0.1")));
        assert!(first.iter().all(|p| p.beyond().is_none()));
        assert_eq!(places.enter(ip("::ffff:10.0.0.1")).beyond(), Some(Beyond::Share), "the same address, mapped");
        let second = places.enter(ip("10.0.0.2"));
        assert_eq!((second.beyond(), places.enter(ip("10.0.0.2")).beyond()), (None, Some(Beyond::All)));
        drop(first);
        assert_eq!(places.enter(ip("10.0.0.2")).beyond(), None);
        drop(second);
        let taken = places.taken();
        assert_eq!((taken.ordinary, taken.clients.len(), taken.open.len()), (0, 0, 0), "nothing stays");
    }

    #[test]
    fn ipv6_hosts_share_by_network() {
        let places = places(9, 1, 1);
        let _first = places.enter(ip("2001:db8:0:1::1"));
        assert_eq!(places.enter(ip("2001:db8:0:1:ffff::2")).beyond(), Some(Beyond::Share));
        assert_eq!(places.enter(ip("2001:db8:0:2::1")).beyond(), None);
    }

    #[tokio::test]
    async fn the_oldest_of_whoever_has_most_of_the_reserve_makes_room() {
        let places = places(1, 1, 3);
        let _main = places.enter(ip("10.0.0.1"));
        let enter = |address: &str| {
            let place = places.enter(ip(address));
            let number = place.number();
            let task = tokio::spawn(async move {
                let _place = place;
                std::future::pending::<()>().await;
            });
            places.serves(number, task.abort_handle());
            task
        };
        let checker = enter("10.0.0.9");
        let [oldest, other, newest] = [(); 3].map(|()| enter("10.0.0.2"));
        assert!(oldest.await.expect_err("closed").is_cancelled());
        assert!(!checker.is_finished() && !other.is_finished() && !newest.is_finished());
    }

    #[tokio::test]
    async fn where_the_system_has_no_room_waiting_connections_make_it() {
        let places = places(100, 100, 2);
        let mut tasks = Vec::new();
        for i in 0..12 {
            let place = places.enter(ip("10.0.0.1"));
            place.waits(i != 0);
            let number = place.number();
            let task = tokio::spawn(async move {
                let _place = place;
                std::future::pending::<()>().await;
            });
            places.serves(number, task.abort_handle());
            tasks.push(task);
        }
        places.shrink();
        // 12 are open: reserve and margin leave 6, and the first is busy.
        for task in &mut tasks[1..7] {
            assert!(task.await.expect_err("closed").is_cancelled());
        }
        assert!(tasks.iter().enumerate().all(|(i, t)| t.is_finished() == (1..7).contains(&i)));
        assert_eq!(places.enter(ip("10.0.0.2")).beyond(), Some(Beyond::All));
        places.shrink();
        assert_eq!(places.taken().connections, 6, "the limit stays");
    }

    #[tokio::test]
    async fn bodies_wait_for_room_and_one_client_does_not_take_all() {
        let settings = Settings { bodies: 8 * UNIT, max_body: 2 * UNIT, ..Settings::default() };
        let places = Arc::new(Places::new(&settings));
        let (one, other) = (places.enter(ip("10.0.0.1")), places.enter(ip("10.0.0.2")));
        let room = one.room(2 * UNIT).await;
        assert!(room.is_some());
        let soon = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, one.room(1)).await.is_err(), "its share is taken");
        assert!(other.room(2 * UNIT).await.is_some());
        drop(room);
        assert!(one.room(1).await.is_some());
    }
}
