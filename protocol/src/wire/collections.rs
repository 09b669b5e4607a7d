use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;

use super::primitive::{count, put_number};
use super::{Negotiated, Source, Wire};

/// A list takes memory as its items arrive; a claimed count gets at most so much in advance.
const PREALLOCATED_ITEMS: u64 = 1024;

async fn read_count<S: Source>(from: &mut S) -> Result<u64, S::Error> {
    from.parse(|on, input| count(on.limits.items(), input)).await
}

impl<T: Wire> Wire for Vec<T> {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        let count = read_count(from).await?;
        let mut items = Self::with_capacity(count.min(PREALLOCATED_ITEMS) as usize);
        for _ in 0..count {
            items.push(T::read(from).await?);
        }
        Ok(items)
    }

    fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        put_number(self.len() as u64, out);
        for item in self {
            item.encode(on, out);
        }
    }
}

/// Read as a list: peers send sets in order, and making one of a list in order takes no search per item.
impl<T: Wire + Ord> Wire for BTreeSet<T> {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        Ok(Vec::read(from).await?.into_iter().collect())
    }

    fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        put_number(self.len() as u64, out);
        for item in self {
            item.encode(on, out);
        }
    }
}

impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        let count = read_count(from).await?;
        let mut items = Self::new();
        for _ in 0..count {
            let key = K::read(from).await?;
            items.insert(key, V::read(from).await?);
        }
        Ok(items)
    }

    fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        put_number(self.len() as u64, out);
        for (key, value) in self {
            key.encode(on, out);
            value.encode(on, out);
        }
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        let first = A::read(from).await?;
        Ok((first, B::read(from).await?))
    }

    fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        self.0.encode(on, out);
        self.1.encode(on, out);
    }
}

impl Wire for () {
    async fn read<S: Source>(_: &mut S) -> Result<Self, S::Error> {
        Ok(())
    }

    fn encode(&self, _: &Negotiated, _: &mut BytesMut) {}
}
