//! Goes far instead of everywhere: one long run, as dice say, with clients that come again and again.

use std::time::Instant;

use crate::step::Step;
use crate::world::{CLIENTS, Client, End, Rules, Trouble, World};

/// How often the service is woken and put to sleep.
const ROUNDS: u32 = 100_000;
/// Within how many steps a client that came is served, however the dice fall.
const PATIENCE: u64 = 5_000;

/// splitmix64: the same numbers everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

/// A world in which nothing goes wrong, so that each client has to be served.
fn world(clients: &'static [u8], tell_last: bool) -> World {
    let rules = Rules {
        clients,
        stop_on_exit: false,
        one_wake: false,
        can_tell: true,
        eager: false,
        tell_last,
        freezes: tell_last,
        guarded: true,
        busy_limit: std::time::Duration::MAX,
        defect: None,
    };
    World::new(rules, Trouble::default(), Instant::now())
}

/// What has come of a walk.
#[derive(Debug, Default)]
struct Walked {
    steps: u64,
    clients: u64,
    /// Connections that entered by the gate, without a message.
    by_gate: u64,
    /// Gates that refused to close for a stop.
    refused: u64,
    /// Of the steps that a process takes, at which a client came.
    came_at: [u64; 32],
}

/// Takes so many rounds, then lets no client come any more, and waits until all is at rest.
fn walk(mut world: World, seed: u64, rounds: u32) -> Walked {
    let mut dice = Dice(seed);
    let mut walked = Walked::default();
    let mut since = [0; CLIENTS];
    let (mut steps, mut last) = (Vec::new(), Step::Unit);
    loop {
        let ending = world.stops.0 >= rounds;
        world.steps(&mut steps);
        // No client comes for a while every now and then, or the service would never sleep.
        let quiet = ending || dice.below(4) != 0;
        if !quiet || steps.iter().any(|&step| step != Step::Come) {
            steps.retain(|&step| step != Step::Come || !quiet);
        }
        if ending && world.is_at_rest() {
            return walked;
        }
        let step = steps[dice.below(steps.len())];
        let before = world.clients;
        let refused = world.is_refused_close();
        world.take(step);
        walked.steps += 1;
        if let Some(why) = world.fault.0 {
            panic!("{why}, with seed {seed} after {} steps", walked.steps);
        }
        walked.refused += u64::from(!refused && world.is_refused_close());
        for client in 0..CLIENTS {
            match (before[client], world.clients[client]) {
                (Client::Away, Client::Backlog) => {
                    since[client] = walked.steps;
                    walked.came_at[usize::from(last.kind().unwrap_or(31))] += 1;
                }
                (Client::Backlog, Client::Admitted) => walked.by_gate += 1,
                (_, Client::Gone(end)) => {
                    assert_eq!(end, End::Served, "with seed {seed}");
                    walked.clients += 1;
                    if world.may_come_again(client) {
                        world.visits.0[client] += 1;
                        world.clients[client] = Client::Away;
                    }
                }
                (_, Client::Away) => (),
                (_, state) => {
                    let waits = walked.steps - since[client];
                    assert!(
                        waits < PATIENCE,
                        "a client is {state:?} for {waits} steps, with seed {seed}"
                    );
                }
            }
        }
        last = step;
    }
}

#[test]
fn no_client_is_lost_in_a_hundred_thousand_rounds() {
    let began = Instant::now();
    let worlds = [
        world(&[0, 0, 0, 0, 0, 0, 0, 0], false),
        world(&[0, 1, 0, 1, 1, 0, 0, 1], false),
        world(&[0, 0, 0], true),
        world(&[0, 1], false),
    ];
    for (seed, world) in (1..).zip(worlds) {
        let walked = walk(world, seed, ROUNDS / 4);
        println!("{walked:?}");
        assert!(walked.clients > u64::from(ROUNDS / 4));
        assert!(walked.by_gate > 0 && walked.refused > 0);
    }
    println!("{ROUNDS} rounds, {:?}", began.elapsed());
}
