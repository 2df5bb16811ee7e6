//! Which datagrams the kernel keeps for us while everything sleeps: a filter (classic BPF, socket(7)) on
//! the socket that systemd holds as well, so that it stays when we exit. What it drops starts neither
//! us nor the service.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use socket2::{SockFilter, SockRef};

use crate::config::udp_wake::{Rule, UdpWake};

/// A filter of a UDP socket sees the header first (net/ipv4/udp.c: `udp_queue_rcv_one_skb`).
const HEADER: u32 = 8;

/// The whole datagram.
const ALL: u32 = u32::MAX;

/// Has the kernel drop what would not wake the service. With `any` it drops nothing.
pub fn attach(socket: impl AsFd, wake: &UdpWake) -> io::Result<()> {
    match wake.rule() {
        None => detach(socket),
        Some(rule) => SockRef::from(&socket).attach_filter(&program(&rule)),
    }
}

/// Has the kernel drop nothing.
pub fn detach(socket: impl AsFd) -> io::Result<()> {
    match SockRef::from(&socket).detach_filter() {
        // There is none.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(()),
        done => done,
    }
}

/// An instruction (linux/filter.h, linux/bpf_common.h).
#[derive(Clone, Copy)]
enum Instruction {
    /// Takes the length.
    Length,
    /// Takes so many bytes at this place: 4, 2 or 1.
    Load(usize, u32),
    /// Takes the bits of it that are in the mask.
    And(u32),
    /// Goes on if it is this.
    Is(u32),
    /// Goes on if it is not this.
    IsNot(u32),
    /// Goes on if it is at least this.
    IsAtLeast(u32),
    /// Ends with so many bytes of the datagram; with none it is dropped.
    End(u32),
}

impl Instruction {
    /// With so many instructions to skip where it does not go on.
    fn code(self, skip: u8) -> SockFilter {
        match self {
            Self::Length => SockFilter::new(0x80, 0, 0, 0),
            Self::Load(4, at) => SockFilter::new(0x20, 0, 0, at),
            Self::Load(2, at) => SockFilter::new(0x28, 0, 0, at),
            Self::Load(_, at) => SockFilter::new(0x30, 0, 0, at),
            Self::And(mask) => SockFilter::new(0x54, 0, 0, mask),
            Self::Is(value) => SockFilter::new(0x15, 0, skip, value),
            Self::IsNot(value) => SockFilter::new(0x15, skip, 0, value),
            Self::IsAtLeast(value) => SockFilter::new(0x35, 0, skip, value),
            Self::End(length) => SockFilter::new(0x06, 0, 0, length),
        }
    }
}

/// What decides about a datagram as the rule does. A load behind its end would drop it, so that its length
/// is looked at first.
fn program(rule: &Rule) -> Vec<SockFilter> {
    let mut steps = vec![
        Instruction::Length,
        Instruction::IsAtLeast(HEADER + rule.pattern.least() as u32),
    ];
    let bytes: Vec<_> = rule.pattern.bytes().collect();
    for (at, width) in parts(bytes.len()) {
        let number = |of: fn(&(u8, u8)) -> u8| {
            let bytes = bytes[at..at + width].iter().map(of);
            bytes.fold(0, |number, byte| number << 8 | u32::from(byte))
        };
        let (value, mask) = (number(|of| of.0), number(|of| of.1));
        steps.push(Instruction::Load(width, HEADER + at as u32));
        if mask != u32::MAX >> (32 - 8 * width) {
            steps.push(Instruction::And(mask));
        }
        steps.push(Instruction::Is(value));
    }
    if rule.versioned {
        steps.extend([Instruction::Load(4, HEADER + 1), Instruction::IsNot(0)]);
    }
    let ends = match rule.fits {
        true => [ALL, 0],
        false => [0, ALL],
    };
    steps.extend(ends.map(Instruction::End));
    let last = steps.len() - 1;
    // Where it does not go on, the last one is next.
    let code = |(at, step): (usize, &Instruction)| step.code(last.saturating_sub(at + 1) as u8);
    steps.iter().enumerate().map(code).collect()
}

/// So many bytes in as few loads as possible, each with its place and its width; the last one may have bytes
/// of the one before.
fn parts(length: usize) -> Vec<(usize, usize)> {
    match length {
        0 => Vec::new(),
        1 | 2 => vec![(0, length)],
        3 => vec![(0, 2), (2, 1)],
        _ => {
            let starts = (0..length.div_ceil(4)).map(|index| (4 * index).min(length - 4));
            starts.map(|at| (at, 4)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::UdpSocket;
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::config::udp_wake::Pattern;

    /// Two sockets that send to each other.
    fn pair(address: &str) -> (UdpSocket, UdpSocket) {
        let [here, there] = [(); 2].map(|()| UdpSocket::bind(address).expect("binds"));
        here.connect(there.local_addr().unwrap()).expect("connects");
        there.connect(here.local_addr().unwrap()).expect("connects");
        there.set_nonblocking(true).unwrap();
        (here, there)
    }

    /// Whether a datagram comes through. What is sent on the loopback interface is there, or dropped, when the call
    /// is over.
    fn passes(from: &UdpSocket, to: &UdpSocket, datagram: &[u8]) -> bool {
        from.send(datagram).expect("sends");
        let mut buffer = vec![0; 2048];
        match to.recv(&mut buffer) {
            Ok(length) => {
                assert_eq!(&buffer[..length], datagram);
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        }
    }

    /// xorshift: the same numbers each time.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % limit as u64) as usize
        }

        fn bytes(&mut self, length: usize) -> Vec<u8> {
            (0..length).map(|_| self.below(256) as u8).collect()
        }
    }

    /// What fits the rule, as short as it may be, or a little longer.
    fn fitting(rule: &Rule, random: &mut Random) -> Vec<u8> {
        let length = rule.pattern.least() + random.below(3);
        let mut datagram = random.bytes(length);
        for (byte, (is, mask)) in datagram.iter_mut().zip(rule.pattern.bytes()) {
            *byte = is | *byte & !mask;
        }
        datagram
    }

    /// One like it, almost.
    fn nearly(mut datagram: Vec<u8>, random: &mut Random) -> Vec<u8> {
        let begin = datagram.len().min(24);
        match random.below(6) {
            0 => datagram.truncate(datagram.len().saturating_sub(1 + random.below(3))),
            1 => datagram.truncate(random.below(24)),
            2 if begin > 0 => datagram[random.below(begin)] ^= 1 << random.below(8),
            3 if begin > 5 => datagram[1..5].fill(0),
            4 if begin > 5 => datagram[1 + random.below(4)] = 0,
            _ => (),
        }
        datagram
    }

    fn kinds(random: &mut Random) -> Vec<UdpWake> {
        let named = ["raknet", "source", "quic", "wireguard", "05", "80/80,1200+"];
        let mut kinds: Vec<UdpWake> = named.map(|text| text.parse().unwrap()).into();
        for length in 1..=Pattern::LONGEST {
            let hex = |bytes: Vec<u8>| -> String {
                bytes.iter().map(|byte| format!("{byte:02x}")).collect()
            };
            let (bytes, mask) = (hex(random.bytes(length)), hex(random.bytes(length)));
            let least = 1 + random.below(60);
            for text in [
                bytes.clone(),
                format!("{bytes}/{mask}"),
                format!("{bytes}/{mask},{least}+"),
            ] {
                kinds.push(text.parse().unwrap());
            }
        }
        kinds
    }

    #[test]
    fn the_kernel_decides_as_we_do() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (here, there) = pair(address);
            for wake in kinds(&mut random) {
                attach(&there, &wake).expect("attaches");
                let rule = wake.rule().expect("it is not any");
                let (mut passed, mut dropped) = (0, 0);
                for round in 0..60 {
                    let mut datagram = match round % 10 {
                        0 => random.bytes(round),
                        _ => fitting(&rule, &mut random),
                    };
                    if round % 3 != 1 {
                        datagram = nearly(datagram, &mut random);
                    }
                    let is = passes(&here, &there, &datagram);
                    assert_eq!(is, wake.wakes(&datagram), "{wake}: {datagram:02x?}");
                    *(if is { &mut passed } else { &mut dropped }) += 1;
                }
                assert!(
                    passed > 0 && dropped > 0,
                    "{wake}: {passed} passed, {dropped} dropped"
                );
            }
        }
    }

    #[test]
    fn no_filter_is_longer_than_20_instructions() {
        let mut random = Random(7);
        for wake in kinds(&mut random) {
            let rule = wake.rule().expect("it is not any");
            let length = program(&rule).len();
            assert!(length <= 20, "{wake}: {length}");
        }
    }

    #[test]
    fn a_filter_stays_while_another_process_holds_the_socket() {
        let (here, there) = pair("127.0.0.1:0");
        let wake: UdpWake = "raknet".parse().unwrap();
        // As systemd has it, and we have our copy.
        let ours: OwnedFd = there.try_clone().unwrap().into();
        attach(&ours, &wake).unwrap();
        drop(ours);
        assert!(!passes(&here, &there, &[1; 40]));
        detach(&there).unwrap();
        assert!(passes(&here, &there, &[1; 40]));
    }

    #[test]
    fn any_takes_a_filter_off_and_nothing_has_to_be_there() {
        let (here, there) = pair("127.0.0.1:0");
        detach(&there).expect("there is none");
        attach(&there, &"ff".parse().unwrap()).unwrap();
        assert!(!passes(&here, &there, b""));
        attach(&there, &UdpWake::Any).unwrap();
        assert!(passes(&here, &there, b""));
    }

    #[test]
    fn what_was_queued_before_the_filter_stays() {
        let (here, there) = pair("127.0.0.1:0");
        here.send(b"early").unwrap();
        attach(&there, &"ff".parse().unwrap()).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(there.recv(&mut buffer).unwrap(), 5);
    }
}
