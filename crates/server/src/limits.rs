//! How many streams there may be: in all, for each user, from each address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidings_wire::UserId;

use crate::LimitsConfig;

/// Counts the streams of one server.
#[derive(Debug)]
pub struct Limits {
    connections: usize,
    per_user: usize,
    per_address: usize,
    open: AtomicUsize,
    most: AtomicUsize,
    users: Counts<UserId>,
    addresses: Counts<IpAddr>,
    refused: [AtomicU32; 3],
}

/// Which limit a stream would pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OverLimit {
    /// That of all streams.
    #[error("the server has as many streams as it may")]
    Connections,
    /// That of its user.
    #[error("the user has as many streams as allowed")]
    User,
    /// That of its address.
    #[error("the address has as many streams as allowed")]
    Address,
}

impl OverLimit {
    /// Every limit, in the order of [`Limits::refused`].
    pub const ALL: [OverLimit; 3] = [OverLimit::Connections, OverLimit::User, OverLimit::Address];

    /// The word for it in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            OverLimit::Connections => "connections",
            OverLimit::User => "user",
            OverLimit::Address => "address",
        }
    }
}

impl Limits {
    /// No stream yet.
    pub fn new(config: &LimitsConfig) -> Arc<Limits> {
        Arc::new(Limits {
            connections: config.connections,
            per_user: config.per_user,
            per_address: config.per_address,
            open: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            users: Counts::default(),
            addresses: Counts::default(),
            refused: Default::default(),
        })
    }

    /// Counts one more stream until the permit is dropped. A user's streams on other nodes, `elsewhere`, count as well.
    ///
    /// # Errors
    /// When one of the limits is reached; nothing is counted then.
    pub fn admit(
        self: &Arc<Limits>,
        user: Option<UserId>,
        elsewhere: usize,
        address: IpAddr,
    ) -> Result<Permit, OverLimit> {
        let permit = self.try_admit(user, elsewhere, address);
        if let Err(limit) = permit {
            self.refused[limit as usize].fetch_add(1, Ordering::Relaxed);
        }
        permit
    }

    fn try_admit(
        self: &Arc<Limits>,
        user: Option<UserId>,
        elsewhere: usize,
        address: IpAddr,
    ) -> Result<Permit, OverLimit> {
        let open = self.open.fetch_add(1, Ordering::AcqRel) + 1;
        // From here on dropping the permit gives back exactly what it has.
        let mut permit = Permit { limits: self.clone(), user: None, address: None };
        if open > self.connections {
            return Err(OverLimit::Connections);
        }
        self.addresses.add(counted(address), self.per_address).ok_or(OverLimit::Address)?;
        permit.address = Some(counted(address));
        if let Some(user) = user {
            self.users.add(user.clone(), self.per_user.saturating_sub(elsewhere)).ok_or(OverLimit::User)?;
            permit.user = Some(user);
        }
        self.most.fetch_max(open, Ordering::Relaxed);
        Ok(permit)
    }

    /// How many streams there are.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// The most streams that there were at once.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// How many streams were refused, by limit, since the start.
    pub fn refused(&self) -> [(OverLimit, u32); 3] {
        OverLimit::ALL.map(|limit| (limit, self.refused[limit as usize].load(Ordering::Relaxed)))
    }
}

/// One counted stream.
#[derive(Debug)]
pub struct Permit {
    limits: Arc<Limits>,
    user: Option<UserId>,
    address: Option<IpAddr>,
}

impl Permit {
    /// Whose stream it is.
    pub fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(user) = &self.user {
            self.limits.users.remove(user);
        }
        if let Some(address) = &self.address {
            self.limits.addresses.remove(address);
        }
        self.limits.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What an address counts as.
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

/// How often each key is there. Touched when a stream begins or ends, never in between.
#[derive(Debug)]
struct Counts<K>(Mutex<HashMap<K, usize>>);

impl<K> Default for Counts<K> {
    fn default() -> Counts<K> {
        Counts(Mutex::new(HashMap::new()))
    }
}

impl<K: Hash + Eq> Counts<K> {
    /// `None` when there are `most` already.
    fn add(&self, key: K, most: usize) -> Option<()> {
        match self.lock().entry(key) {
            Entry::Occupied(mut entry) => (*entry.get() < most).then(|| *entry.get_mut() += 1),
            Entry::Vacant(entry) => (most > 0).then(|| {
                entry.insert(1);
            }),
        }
    }

    fn remove(&self, key: &K) {
        let mut counts = self.lock();
        if let Some(count) = counts.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(key);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        // Each change is one step, so a thread that died while it held the lock left nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections: usize, per_user: usize, per_address: usize) -> Arc<Limits> {
        Limits::new(&LimitsConfig { connections, per_user, per_address, ..LimitsConfig::default() })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn user(id: &str) -> Option<UserId> {
        Some(id.parse().unwrap())
    }

    #[test]
    fn each_limit_holds_and_a_permit_gives_its_place_back() {
        let limits = limits(3, 1, 2);
        let one = address("10.0.0.1");
        let first = limits.admit(user("a"), 0, one).unwrap();
        assert_eq!(limits.admit(user("a"), 0, one).unwrap_err(), OverLimit::User);
        let second = limits.admit(None, 0, one).unwrap();
        assert_eq!(limits.admit(None, 0, one).unwrap_err(), OverLimit::Address);
        let third = limits.admit(user("b"), 0, address("10.0.0.2")).unwrap();
        assert_eq!(limits.admit(None, 0, address("10.0.0.3")).unwrap_err(), OverLimit::Connections);
        assert_eq!(limits.open(), 3);
        drop(third);
        assert_eq!(limits.admit(user("b"), 1, address("10.0.0.2")).unwrap_err(), OverLimit::User);
        drop((first, second));
        assert_eq!((limits.open(), limits.most()), (0, 3));
        assert!(limits.users.lock().is_empty() && limits.addresses.lock().is_empty());
        assert!(limits.admit(user("a"), 0, one).is_ok());
        assert_eq!(limits.refused().map(|(_, count)| count), [1, 2, 1]);
    }

    #[test]
    fn one_customer_is_one_address() {
        let limits = limits(10, 1, 1);
        let _first = limits.admit(None, 0, address("2001:db8::1")).unwrap();
        assert_eq!(limits.admit(None, 0, address("2001:db8::2")).unwrap_err(), OverLimit::Address);
        let _other = limits.admit(None, 0, address("2001:db8:0:1::1")).unwrap();
        let _mapped = limits.admit(None, 0, address("::ffff:10.0.0.1")).unwrap();
        assert_eq!(limits.admit(None, 0, address("10.0.0.1")).unwrap_err(), OverLimit::Address);
    }
}
