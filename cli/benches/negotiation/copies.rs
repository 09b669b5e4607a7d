//! The same copying by both.

use crate::Outcome;
use crate::proxy::Link;
use crate::wire::Figures;
use crate::world::{BASE, Holds, NEW, Side, World, expect, unix};

/// Derivations that are copied one by one.
const SINGLE: usize = 60;

/// What is copied to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copying {
    Cold,
    HeadAfterBase,
    Unchanged,
    UnchangedAgain,
    PerRoot,
}

impl Copying {
    pub(crate) const ALL: [Self; 5] = [
        Self::Cold,
        Self::HeadAfterBase,
        Self::Unchanged,
        Self::UnchangedAgain,
        Self::PerRoot,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::HeadAfterBase => "head-after-base",
            Self::Unchanged => "unchanged",
            Self::UnchangedAgain => "unchanged-again",
            Self::PerRoot => "per-root",
        }
    }

    /// How often it is measured: what takes long varies little.
    fn rounds(self, link: Link) -> usize {
        match (self, link) {
            (Self::Unchanged | Self::UnchangedAgain, Link::Loopback) => 5,
            (Self::Cold | Self::HeadAfterBase, Link::Loopback)
            | (Self::Unchanged | Self::UnchangedAgain, Link::RoundTrip(_)) => 3,
            (Self::Cold | Self::HeadAfterBase, Link::RoundTrip(_)) | (Self::PerRoot, _) => 1,
        }
    }

    pub(crate) fn holds(self) -> Holds {
        match self {
            Self::Cold => Holds::Nothing,
            Self::HeadAfterBase | Self::Unchanged | Self::UnchangedAgain | Self::PerRoot => Holds::Base,
        }
    }

    pub(crate) fn roots(self, world: &World) -> &str {
        match self {
            Self::HeadAfterBase => &world.head,
            Self::Cold | Self::Unchanged | Self::UnchangedAgain => &world.base,
            Self::PerRoot => {
                let end = world.base.match_indices('\n').nth(SINGLE - 1).map(|(at, _)| at + 1);
                &world.base[..end.unwrap_or(world.base.len())]
            }
        }
    }

    /// Paths that have to be sent.
    pub(crate) fn sends(self) -> u64 {
        match self {
            Self::Cold => BASE,
            Self::HeadAfterBase => NEW,
            Self::Unchanged | Self::UnchangedAgain | Self::PerRoot => 0,
        }
    }

    /// One side's figures over a link.
    pub(crate) fn measure(self, world: &World, link: Link, side: Side) -> Outcome<Figures> {
        let fresh;
        let peer = if side == Side::Stock && self.sends() == 0 {
            world.unchanging()?
        } else {
            fresh = world.peer(side, self.holds())?;
            &fresh
        };
        let roots = self.roots(world);
        if self == Self::UnchangedAgain {
            peer.measure(Link::Loopback, |socket| {
                expect(world.copy(side, &unix(socket), roots)?, 0)
            })?;
        }
        peer.measure(link, |socket| {
            if self == Self::PerRoot && side == Side::Stock {
                for root in roots.lines() {
                    world.copy(side, &unix(socket), root)?;
                }
                return Ok(());
            }
            expect(world.copy(side, &unix(socket), roots)?, self.sends())
        })
    }

    /// Both sides' figures over a link, stock's first.
    pub(crate) fn both(self, world: &World, link: Link) -> Outcome<(Figures, Figures)> {
        let (mut stock, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds(link) {
            stock.push(self.measure(world, link, Side::Stock)?);
            ours.push(self.measure(world, link, Side::Nixci)?);
        }
        Ok((Figures::median(stock), Figures::median(ours)))
    }
}

/// The stock client's copying into nixci beside the same into nix-daemon.
pub(crate) fn copy_in(world: &World) -> Outcome<(Figures, Figures)> {
    let into = |side| {
        let peer = world.peer(side, Holds::Nothing)?;
        peer.measure(Link::Loopback, |socket| {
            world.copy(Side::Stock, &unix(socket), &world.base).map(drop)
        })
    };
    Ok((into(Side::Stock)?, into(Side::Nixci)?))
}
