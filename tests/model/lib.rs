//! The core as it is delivered, in a package of its own: it compiles alone, since it knows std only,
//! and optimized, since the model takes it through millions of states.

// Its unit tests run where it is delivered.
#[cfg(not(test))]
#[path = "../../src"]
mod src {
    pub mod core;
}

#[cfg(not(test))]
pub use src::core;
