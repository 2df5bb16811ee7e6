use serde_json::json;

use super::*;

fn holder(uid: &str) -> Holder {
    Holder {
        uid: uid.into(),
        pod: format!("ns/{uid}"),
    }
}

fn fresh() -> Agreement {
    Agreement::read(&Value::Null)
}

/// What is written, read again.
fn stored(agreement: &Agreement) -> Agreement {
    let lease = json!({"metadata": {"annotations": {"else": "x", "wakeport/claim.old": "ns/old"}}});
    let lease = agreement.write(&lease);
    assert_eq!(lease["metadata"]["annotations"]["else"], "x");
    Agreement::read(&lease)
}

#[test]
fn what_is_written_is_read_again() {
    let (a, b) = (holder("a"), holder("b"));
    let replicas = BTreeMap::from([("deployment/web".to_owned(), 3)]);
    for agreement in [
        fresh(),
        fresh().claimed(&a),
        fresh().claimed(&a).claimed(&b),
        Agreement {
            stage: Stage::Sleeping(a.clone()),
            replicas,
            claims: BTreeMap::new(),
        },
        Agreement {
            stage: Stage::Sleeping(Holder {
                uid: "outside.host".into(),
                pod: String::new(),
            }),
            ..fresh()
        },
    ] {
        assert_eq!(stored(&agreement), agreement);
    }
}

#[test]
fn anything_in_the_annotations_is_read_without_a_panic() {
    for annotations in [
        json!(null),
        json!([]),
        json!({"wakeport/state": 7, "wakeport/replicas": ["x"], "wakeport/claim.": null}),
        json!({"wakeport/state": "sleeping", "wakeport/replicas": "= a= =3 a=-1 b=99999999999 c=2"}),
    ] {
        let read = Agreement::read(&json!({"metadata": {"annotations": annotations}}));
        assert!(read.replicas.len() <= 2, "{read:?}");
        stored(&read);
    }
}

#[test]
fn a_lease_that_is_none_is_written_without_a_panic() {
    for lease in [
        json!(null),
        json!(7),
        json!([]),
        json!({"metadata": 7}),
        json!({"metadata": {"annotations": "x"}}),
    ] {
        let next = Agreement::read(&lease).claimed(&holder("a"));
        assert_eq!(Agreement::read(&next.write(&lease)), next, "{lease}");
    }
}

#[test]
fn the_one_that_drops_the_last_claim_stops_the_workload_and_remembers_its_replicas() {
    let (a, b, none) = (holder("a"), holder("b"), BTreeSet::new());
    let replicas = BTreeMap::from([("deployment/web".to_owned(), 3)]);
    let both = fresh().claimed(&a).claimed(&b);
    assert_eq!(both.claim(&a), Claim::Held);
    let Release::Others(one) = both.release(&a, &none, &replicas) else {
        panic!("b has a claim");
    };
    assert!(one.is_held(&b) && !one.is_held(&a));
    // Once more changes nothing.
    assert_eq!(one.release(&a, &none, &replicas), Release::Over);
    let Release::Last(last) = one.release(&b, &none, &replicas) else {
        panic!("it was the last claim");
    };
    assert_eq!(
        (&last.stage, &last.replicas),
        (&Stage::Sleeping(b.clone()), &replicas)
    );
    // Neither gets a claim while the order may be under way.
    assert_eq!(last.claim(&a), Claim::Fenced(b.clone()));
    assert_eq!(last.claim(&b), Claim::Fenced(b.clone()));
    assert!(!last.is_held(&b));
    assert_eq!(last.release(&b, &none, &replicas), Release::Ours);
    assert_eq!(last.release(&a, &none, &replicas), Release::Over);
    let asleep = last.stopped(&b).expect("b has stopped it");
    assert_eq!(last.stopped(&a), None);
    let Claim::Write(again) = asleep.claim(&a) else {
        panic!("it is asleep");
    };
    assert!(again.is_held(&a));
    assert_eq!(again.replicas, replicas);
    // Zero is nothing to remember.
    let zero = BTreeMap::from([("deployment/web".to_owned(), 0)]);
    let Release::Last(last) = again.release(&a, &none, &zero) else {
        panic!("it was the last claim");
    };
    assert_eq!(last.replicas, replicas);
}

#[test]
fn void_claims_do_not_keep_it_awake_and_others_do() {
    let (a, b, c) = (holder("a"), holder("b"), holder("c"));
    let all = fresh().claimed(&a).claimed(&b).claimed(&c);
    let void = BTreeSet::from(["b".to_owned()]);
    let Release::Others(next) = all.release(&a, &void, &BTreeMap::new()) else {
        panic!("c has a claim");
    };
    assert_eq!(next.claims.into_keys().collect::<Vec<_>>(), ["c"]);
    let two = fresh().claimed(&a).claimed(&b);
    assert!(matches!(
        two.release(&a, &void, &BTreeMap::new()),
        Release::Last(_)
    ));
}

#[test]
fn one_whose_stop_was_taken_over_does_not_end_it() {
    let (a, b) = (holder("a"), holder("b"));
    let Release::Last(stopping) =
        fresh()
            .claimed(&a)
            .release(&a, &BTreeSet::new(), &BTreeMap::new())
    else {
        panic!("it was the last claim");
    };
    let taken = stopping.claimed(&b);
    assert_eq!(taken.stopped(&a), None);
    assert!(taken.is_held(&b));
    assert_eq!(taken.dropped(&a), None);
    assert!(taken.dropped(&b).is_some_and(|next| next.claims.is_empty()));
}

// -- every order of events, of two wakeports and their pods

/// Where one of them stands.
#[derive(Clone, Debug)]
enum Step {
    /// It does nothing with the Lease.
    Rest,
    /// It has read the Lease to get a claim, or to give it up.
    Read(Agreement, bool),
    /// It has a claim, and is to look whether to scale up.
    Claimed,
    /// Its order to scale to zero is to be sent, if there is anything to scale.
    Order,
    /// It waits for the answer to that.
    Answer,
    /// The order has been carried out.
    Carried,
}

#[derive(Clone, Debug)]
struct Peer {
    /// Its process lives.
    runs: bool,
    /// Its pod is in the API.
    is_there: bool,
    /// It lets connections through.
    relays: bool,
    step: Step,
    /// What it has read is the latest.
    fresh: bool,
    /// Its orders that may be carried out, one day.
    in_flight: u8,
}

#[derive(Clone, Debug)]
struct World {
    lease: Agreement,
    /// It is scaled up. An order says what it comes after: each change makes those void that are in flight.
    up: bool,
    peers: [Peer; 2],
}

impl World {
    fn new() -> Self {
        let peer = Peer {
            runs: true,
            is_there: true,
            relays: false,
            step: Step::Rest,
            fresh: false,
            in_flight: 0,
        };
        Self {
            lease: fresh(),
            up: false,
            peers: [peer.clone(), peer],
        }
    }

    fn me(index: usize) -> Holder {
        holder(["a", "b"][index])
    }

    /// Writes to the Lease, unless it has changed since it was read.
    fn write(&mut self, index: usize, next: Agreement) -> bool {
        let fresh = self.peers[index].fresh;
        if fresh {
            self.lease = next;
            self.peers.iter_mut().for_each(|peer| peer.fresh = false);
        }
        fresh
    }

    fn scale(&mut self, up: bool) {
        self.up = up;
        self.peers.iter_mut().for_each(|peer| peer.in_flight = 0);
    }

    /// All that may happen next to one of them.
    fn next(&self, index: usize) -> Vec<Self> {
        let mut all = Vec::new();
        let mut then = |change: &dyn Fn(&mut Self)| {
            let mut next = self.clone();
            change(&mut next);
            all.push(next);
        };
        let peer = &self.peers[index];
        let me = Self::me(index);
        if peer.in_flight > 0 {
            then(&|world| {
                let is_used = world.peers.iter().any(|peer| peer.relays);
                let is_ordered = matches!(world.lease.stage, Stage::Sleeping(_));
                assert!(
                    !is_used && is_ordered,
                    "scaled to zero under connections: {self:?}"
                );
                world.scale(false);
                if let Step::Answer = world.peers[index].step {
                    world.peers[index].step = Step::Carried;
                }
            });
            // It is refused, or its time is over.
            then(&|world| {
                world.peers[index].in_flight -= 1;
                if let Step::Answer = world.peers[index].step {
                    world.peers[index].step = Step::Rest;
                }
            });
        }
        if !peer.runs {
            if peer.is_there {
                then(&|world| world.peers[index].runs = true);
                then(&|world| world.peers[index].is_there = false);
            }
            return all;
        }
        then(&|world| {
            let peer = &mut world.peers[index];
            (peer.runs, peer.relays, peer.step) = (false, false, Step::Rest);
        });
        match &peer.step {
            Step::Rest => {
                let read = |wants: bool| {
                    move |world: &mut Self| {
                        let lease = world.lease.clone();
                        let peer = &mut world.peers[index];
                        // No connection is let through any more before it gives its claim up.
                        peer.relays &= wants;
                        (peer.step, peer.fresh) = (Step::Read(lease, wants), true);
                    }
                };
                then(&read(true));
                then(&read(false));
            }
            Step::Read(read, true) => {
                let next = match read.claim(&me) {
                    Claim::Held => None,
                    Claim::Write(next) => Some(next),
                    Claim::Fenced(by) => {
                        let other = usize::from(by.uid == "b");
                        let is_gone = other == index || !self.peers[other].is_there;
                        // So long after it, nothing of it is left.
                        if !is_gone || self.peers[other].in_flight > 0 {
                            then(&|world| world.peers[index].step = Step::Rest);
                            return all;
                        }
                        Some(read.claimed(&me))
                    }
                };
                then(&|world| {
                    let has = match next.clone() {
                        None => true,
                        Some(next) => world.write(index, next),
                    };
                    world.peers[index].step = if has { Step::Claimed } else { Step::Rest };
                });
            }
            Step::Read(read, false) => {
                let gone = (0..2).filter(|&index| !self.peers[index].is_there);
                let void = gone.map(|index| Self::me(index).uid).collect();
                let release = read.release(&me, &void, &BTreeMap::new());
                then(&|world| {
                    let (next, step) = match &release {
                        Release::Ours => (None, Step::Order),
                        Release::Over => (None, Step::Rest),
                        Release::Others(next) => (Some(next), Step::Rest),
                        Release::Last(next) => (Some(next), Step::Order),
                    };
                    let is_done = next.is_none_or(|next| world.write(index, next.clone()));
                    world.peers[index].step = if is_done { step } else { Step::Rest };
                });
            }
            Step::Claimed => then(&|world| {
                if !world.up {
                    world.scale(true);
                }
                let peer = &mut world.peers[index];
                (peer.relays, peer.step) = (true, Step::Rest);
            }),
            Step::Order if !self.up => then(&|world| world.peers[index].step = Step::Carried),
            Step::Order if peer.in_flight < 2 => then(&|world| {
                world.peers[index].in_flight += 1;
                world.peers[index].step = Step::Answer;
            }),
            Step::Order => (),
            // Nothing is heard of it.
            Step::Answer => then(&|world| world.peers[index].step = Step::Rest),
            Step::Carried => then(&|world| {
                if let Some(next) = world.lease.stopped(&me) {
                    world.peers[index].fresh = true;
                    world.write(index, next);
                }
                world.peers[index].step = Step::Rest;
            }),
        }
        all
    }
}

#[test]
fn in_no_order_of_events_is_it_scaled_to_zero_under_connections() {
    let first = World::new();
    let mut known = BTreeSet::from([format!("{first:?}")]);
    let (mut open, mut orders, mut both) = (vec![first], 0, 0);
    while let Some(world) = open.pop() {
        orders += usize::from(world.peers.iter().any(|peer| peer.in_flight > 0));
        both += usize::from(world.peers.iter().all(|peer| peer.relays));
        for next in (0..2).flat_map(|index| world.next(index)) {
            if known.insert(format!("{next:?}")) {
                open.push(next);
            }
        }
    }
    // It has been somewhere.
    assert!(
        known.len() > 1000 && orders > 100 && both > 10,
        "{} {orders} {both}",
        known.len()
    );
}
