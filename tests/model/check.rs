//! Visits every state, then looks for runs that never come to rest.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::ops::Range;

use crate::core::lifecycle::{State, Stop};
use crate::step::Step;
use crate::world::{Client, End, World};

/// Every state that can be reached, and what leads from one to the other by itself.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    ids: HashMap<Print, u32, BuildHasherDefault<Hashed>>,
    parents: Vec<(u32, Option<Step>)>,
    /// Where each state's edges begin.
    first: Vec<u32>,
    /// To where,
    edges: Vec<u32>,
    /// and of which kind the step is.
    kinds: Vec<Option<u8>>,
    at_rest: Vec<bool>,
    /// How many steps were taken.
    pub(crate) steps: usize,
    /// What was to be seen somewhere: the lifecycle's states, how it went for clients.
    pub(crate) sights: BTreeSet<&'static str>,
}

/// Why, and how it comes to that in as few steps as possible.
#[derive(Debug)]
pub(crate) struct Counterexample {
    pub(crate) why: String,
    start: Box<World>,
    steps: Vec<Step>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut world = (*self.start).clone();
        for &step in &self.steps {
            world.take(step);
            let clients = &world.clients[..world.rules.0.clients.len()];
            writeln!(f, "{step:?}")?;
            writeln!(f, "    clients {clients:?}, {:?}", world.unit)?;
            if let Some(process) = &world.process {
                let (state, stage) = (process.state(), process.stage);
                writeln!(f, "    {state:?}, {stage:?}, query {:?}", process.query)?;
                writeln!(
                    f,
                    "    orders {:?}, reports {:?}, inbox {:?}",
                    process.orders, process.reports, process.inbox
                )?;
                let gates = process.gates.map(|gate| (gate.is_open(), gate.inside()));
                writeln!(
                    f,
                    "    gates {gates:?}, told {}, doing {:?}",
                    process.told, process.doing
                )?;
            }
        }
        write!(f, "{}, after {} steps", self.why, self.steps.len())
    }
}

/// Kinds of steps, one bit for each.
type Kinds = u32;

/// A state as bytes, of which there are no more than it takes: whatever is in it is a small number.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn write_usize(&mut self, small: usize) {
        self.0.push(small as u8);
    }

    fn write_isize(&mut self, small: isize) {
        self.0.push(small as u8);
    }

    fn finish(&self) -> u64 {
        unreachable!("it is only collected")
    }
}

/// What states are told apart by: two hashes of 64 bits. That two of ten million states have both
/// in common is less likely than one in 10^24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print([u32; 4]);

impl Hash for Print {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(u64::from(self.0[0]) << 32 | u64::from(self.0[1]));
    }
}

/// It is a hash already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, _: &[u8]) {
        unreachable!("it is one number")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn print(world: &World) -> Print {
    let mut bytes = Bytes(Vec::with_capacity(256));
    world.hash(&mut bytes);
    let hash = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(salt);
        hasher.write(&bytes.0);
        let hash = hasher.finish();
        [(hash >> 32) as u32, hash as u32]
    };
    let ([a, b], [c, d]) = (hash(1), hash(2));
    Print([a, b, c, d])
}

impl Graph {
    /// Visits what can be reached from `start`, nearest first, until something is wrong.
    pub(crate) fn explore(start: &World) -> Result<Self, Counterexample> {
        let mut graph = Self::default();
        let mut next = VecDeque::new();
        graph.enter(start.clone(), (0, None), &mut next);
        let (mut state, mut steps) = (0, Vec::new());
        while let Some(world) = next.pop_front() {
            graph.first.push(graph.edges.len() as u32);
            world.steps(&mut steps);
            for &step in &steps {
                let mut after = world.clone();
                after.take(step);
                graph.steps += 1;
                if let Some(why) = after.fault.0 {
                    let mut steps = graph.way_to(state);
                    steps.push(step);
                    return Err(Counterexample {
                        why: why.into(),
                        start: start.clone().into(),
                        steps,
                    });
                }
                let to = graph.enter(after, (state, Some(step)), &mut next);
                if step.is_possible_for_ever() {
                    graph.edges.push(to);
                    graph.kinds.push(step.kind());
                }
            }
            state += 1;
        }
        graph.first.push(graph.edges.len() as u32);
        // No other state is entered any more.
        graph.ids = HashMap::default();
        Ok(graph)
    }

    fn enter(
        &mut self,
        world: World,
        parent: (u32, Option<Step>),
        next: &mut VecDeque<World>,
    ) -> u32 {
        let new = self.parents.len() as u32;
        let id = *self.ids.entry(print(&world)).or_insert(new);
        if id == new {
            self.parents.push(parent);
            self.at_rest.push(world.is_at_rest());
            self.note(&world);
            next.push_back(world);
        }
        id
    }

    fn note(&mut self, world: &World) {
        if let Some(process) = &world.process {
            self.sights.insert(match process.state() {
                State::Asleep => "Asleep",
                State::Waking { .. } => "Waking",
                State::Awake => "Awake",
                State::Cooling { .. } => "Cooling",
                State::Freezing { .. } => "Freezing",
                State::Frozen { .. } => "Frozen",
                State::Thawing { .. } => "Thawing",
                State::Stopping(Stop::Ours) => "Stopping(Ours)",
                State::Stopping(Stop::Again { .. }) => "Stopping(Again)",
                State::Stopping(Stop::Theirs) => "Stopping(Theirs)",
                State::Failed { .. } => "Failed",
            });
        }
        for client in world.clients {
            self.sights.insert(match client {
                Client::Gone(End::Served) => "Served",
                Client::Gone(End::Rejected) => "Rejected",
                Client::Gone(End::Left) => "Left",
                Client::Gone(End::Cut) => "Cut",
                Client::Away
                | Client::Backlog
                | Client::Waiting
                | Client::Admitted
                | Client::Rejected
                | Client::Connected => continue,
            });
        }
    }

    /// How many states there are.
    pub(crate) fn states(&self) -> usize {
        self.parents.len()
    }

    fn way_to(&self, state: u32) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut at = state;
        while let (parent, Some(step)) = self.parents[at as usize] {
            steps.push(step);
            at = parent;
        }
        steps.reverse();
        steps
    }

    fn range(&self, state: u32) -> Range<usize> {
        let (from, to) = (self.first[state as usize], self.first[state as usize + 1]);
        from as usize..to as usize
    }

    /// Where it may go by itself, each with the kind of the step, as a bit.
    fn edges(&self, state: u32) -> impl Iterator<Item = (u32, Kinds)> {
        let range = self.range(state);
        let kinds = self.kinds[range.clone()].iter();
        let bits = kinds.map(|kind| kind.map_or(0, |kind| 1 << kind));
        self.edges[range].iter().copied().zip(bits)
    }

    fn possible(&self, state: u32) -> Kinds {
        self.edges(state).fold(0, |kinds, (_, kind)| kinds | kind)
    }

    /// Makes sure that whatever happens, in the end all clients have left and nothing runs any more:
    /// there is no way to go on for ever in which each step that is possible all the time (a
    /// timer's: again and again) is taken.
    ///
    /// Such a way ends inside one strongly connected component. So for each of them it is enough
    /// to ask whether it is fair to stay there.
    pub(crate) fn comes_to_rest(&self, start: &World) -> Result<(), Counterexample> {
        let insistent = Step::INSISTENT.into_iter().chain((0..4).map(Step::Limit));
        let insistent = insistent
            .filter_map(Step::kind)
            .fold(0, |kinds, kind| kinds | 1 << kind);
        let mut parts = self.components(&(0..self.states() as u32).collect::<Vec<_>>());
        while let Some(part) = parts.pop() {
            if part.iter().all(|&state| self.at_rest[state as usize]) {
                continue;
            }
            let inside = |state: &u32| part.binary_search(state).is_ok();
            let (mut always, mut sometimes, mut taken) = (Kinds::MAX, 0, 0);
            for &state in &part {
                let possible = self.possible(state);
                always &= possible;
                sometimes |= possible;
                let stays = self.edges(state).filter(|(to, _)| inside(to));
                taken |= stays.fold(0, |kinds, (_, kind)| kinds | kind);
            }
            if always & !insistent & !taken != 0 {
                continue;
            }
            let missing = sometimes & insistent & !taken;
            if missing == 0 {
                let nearest = part[0];
                return Err(Counterexample {
                    why: format!("it never comes to rest, in {} states", part.len()),
                    start: start.clone().into(),
                    steps: self.way_to(nearest),
                });
            }
            let rest = part
                .iter()
                .filter(|&&state| self.possible(state) & missing == 0);
            let rest: Vec<_> = rest.copied().collect();
            parts.extend(self.components(&rest));
        }
        Ok(())
    }

    /// The strongly connected components of `members`, each sorted (Tarjan's algorithm, without
    /// recursion: some paths are millions of states long).
    fn components(&self, members: &[u32]) -> Vec<Vec<u32>> {
        const NEW: u32 = u32::MAX;
        const OUTSIDE: u32 = u32::MAX - 1;
        const DONE: u32 = u32::MAX - 2;
        let mut low = vec![OUTSIDE; self.states()];
        for &state in members {
            low[state as usize] = NEW;
        }
        let (mut components, mut stack, mut count) = (Vec::new(), Vec::new(), 0);
        for &root in members {
            if low[root as usize] != NEW {
                continue;
            }
            // Each with its own number and the edge that is next.
            let mut path = vec![(root, count, 0)];
            low[root as usize] = count;
            count += 1;
            stack.push(root);
            while let Some((state, number, edge)) = path.last_mut() {
                if let Some(&to) = self.edges[self.range(*state)].get(*edge) {
                    *edge += 1;
                    match low[to as usize] {
                        NEW => {
                            low[to as usize] = count;
                            stack.push(to);
                            path.push((to, count, 0));
                            count += 1;
                        }
                        OUTSIDE | DONE => (),
                        earlier => {
                            let low = &mut low[*state as usize];
                            *low = earlier.min(*low);
                        }
                    }
                    continue;
                }
                let (state, number) = (*state, *number);
                path.pop();
                let lowest = low[state as usize];
                if let Some((parent, ..)) = path.last() {
                    let low = &mut low[*parent as usize];
                    *low = lowest.min(*low);
                }
                if lowest == number {
                    let from = stack
                        .iter()
                        .rposition(|&on| on == state)
                        .expect("it is there");
                    let mut component = stack.split_off(from);
                    component
                        .iter()
                        .for_each(|&state| low[state as usize] = DONE);
                    component.sort_unstable();
                    components.push(component);
                }
            }
        }
        components
    }
}
