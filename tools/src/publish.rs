//! `superpeer publish`: a stream onto a channel.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, TryRecvError};
use mesh::limits::DIALS_PER_CHANNEL_MAX;
use mesh::{ChannelId, Limits};
use mio::Waker;

use crate::Error;
use crate::contact::{Contact, say};
use crate::driver::Driver;
use crate::input::{Input, InputError, InputSpec};
use crate::interrupt::Interrupt;
use crate::key_file::KeyFile;
use crate::link::parse_relay;
use crate::mpegts::Scanner;

/// Publish a stream on a channel
///
/// Publishes the stream INPUT on the channel of a key, through one or more relays. The end of the input ends the
/// channel.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  ffmpeg -re -i film.mp4 -c copy -f mpegts - |
    superpeer publish --key demo.key --relay 127.0.0.1:7450
  superpeer publish --key demo.key --relay relay.example:7450 --loop film.ts
  superpeer publish --key demo.key --relay relay.example:7450 udp://239.1.2.3:5000

Ctrl-C ends the channel as the end of the input does; a second one ends the program at once.")]
pub struct Args {
    /// The channel's key, from `superpeer keygen`
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// A relay that is to carry the channel; may be repeated
    #[arg(long = "relay", value_name = "HOST:PORT", required = true, value_parser = parse_relay)]
    pub relays: Vec<String>,
    /// `-` (standard input), an MPEG-TS file (sent at the speed of its clock), or udp://ADDR:PORT (MPEG-TS datagrams
    /// to an address of this machine or to a multicast group)
    #[arg(value_name = "INPUT", default_value = "-", hide_default_value = true)]
    pub input: InputSpec,
    /// Start a file again at its end
    #[arg(long = "loop")]
    pub looped: bool,
}

/// How long the end of the channel may take to reach the relays.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Blocks between the reader and the node: up to 64 KiB each from a pipe, a datagram's worth from a file or the network.
const BLOCKS_MAX: usize = 64;

/// Blocks that are made into chunks before the node is asked what is to be sent.
const BLOCKS_PER_ROUND: usize = 4;

/// Chunks that a relay may be behind: half of what is kept to repair from. A relay says once a second how far it is; at
/// 100 Mbit/s that is 380 chunks.
const UNSETTLED_MAX: u64 = PUBLISHER_SLOTS as u64 / 2;

/// How long an input that is held back waits before the next look.
const BEHIND_PAUSE: Duration = Duration::from_millis(20);

/// A stream without a random-access point for this long has none.
const NO_JOIN_POINT_WAIT: Duration = Duration::from_secs(10);

/// Runs the command.
///
/// # Errors
/// When the key or the input cannot be read, or every relay refuses the channel.
pub fn run(args: Args) -> Result<(), Error> {
    let relays: BTreeSet<String> = args.relays.into_iter().collect();
    if relays.len() > DIALS_PER_CHANNEL_MAX {
        let found = relays.len();
        return Err(Error::Usage(format!(
            "{found} relays are named; at most {DIALS_PER_CHANNEL_MAX} can be"
        )));
    }
    let key = KeyFile::read(&args.key)?;
    let mut driver = Driver::open(publisher_limits(), PUBLISHER_SLOTS)?;
    // Opening may wait, for the other end of a pipe: until then a signal ends the command as signals do.
    let stop = Arc::<AtomicBool>::default();
    let input = Input::open(&args.input, args.looped, Arc::clone(&stop))?;
    let interrupt = Interrupt::listen(stop, driver.waker())?;
    let now = driver.now();
    let channel = driver.node.add_source(now, key.secret);
    let contact = |name: String| Contact::new(&driver, channel, &[name]);
    let contacts = relays.into_iter().map(contact).collect();
    let blocks = spawn_reader(input, driver.waker())?;
    let mut publisher =
        Publisher { driver, contacts, stream: Stream::new(channel), interrupt, told_of_haste: false };
    // What failed first is what the user has to know.
    match publisher.publish(&blocks) {
        // Nobody is left to be given the rest.
        Err(error @ Error::Refused { .. }) => Err(error),
        ended => ended.and(publisher.finish(channel)),
    }
}

/// What a publisher keeps to repair from: 10 s of 30 Mbit/s.
fn publisher_limits() -> Limits {
    Limits { window_bytes_max: PUBLISHER_SLOTS * mesh::SLOT_BYTES, ..Limits::default() }
}

const PUBLISHER_SLOTS: usize = 1_100;

/// What the reader hands over.
type Block = Result<Vec<u8>, InputError>;

/// Reading blocks; it has a thread of its own. The channel is closed at the end of the input.
fn spawn_reader(mut input: Input, waker: Arc<Waker>) -> Result<Receiver<Block>, Error> {
    let (blocks, receiver) = crossbeam::channel::bounded(BLOCKS_MAX);
    let body = move || {
        loop {
            let block = match input.next_block() {
                Ok(Some(bytes)) => Ok(bytes.to_vec()),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            let failed = block.is_err();
            if blocks.send(block).is_err() || failed {
                break;
            }
            // The node is asked once a second in any case.
            let _ = waker.wake();
        }
        drop(blocks);
        let _ = waker.wake();
    };
    let spawned = thread::Builder::new().name("reader".to_owned()).spawn(body);
    spawned.map_err(|error| Error::System("cannot start a thread", error))?;
    Ok(receiver)
}

struct Publisher {
    driver: Driver,
    contacts: Vec<Contact>,
    stream: Stream,
    interrupt: Interrupt,
    /// The user knows that the input is faster than real time.
    told_of_haste: bool,
}

impl Publisher {
    /// Publishes until the input ends or somebody asks for the end.
    fn publish(&mut self, blocks: &Receiver<Block>) -> Result<(), Error> {
        while !self.interrupt.is_set() {
            let room = self.room();
            for _ in 0..room {
                match blocks.try_recv() {
                    Ok(block) => self.stream.push(&mut self.driver, &block?),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
            let longest = match room {
                0 => BEHIND_PAUSE,
                _ if blocks.is_empty() => Duration::from_secs(1),
                _ => Duration::ZERO,
            };
            self.turn(longest)?;
        }
        Ok(())
    }

    /// How many blocks may be taken in this round. A live input never comes faster than it is carried; one that does is
    /// held back, as long as there is a relay that gets on with it.
    fn room(&mut self) -> usize {
        if self.driver.node.unsettled(self.stream.channel) < UNSETTLED_MAX {
            return BLOCKS_PER_ROUND;
        }
        if !std::mem::replace(&mut self.told_of_haste, true) {
            say(
                "the input comes faster than it is carried: it is held back (`ffmpeg -re` sends at the stream's speed)",
            );
        }
        0
    }

    /// One round of the node. The input goes on whether or not a relay is there: what is too old is dropped.
    fn turn(&mut self, mut longest: Duration) -> Result<(), Error> {
        for contact in &mut self.contacts {
            if let Some(at) = contact.poll(&mut self.driver) {
                longest = longest.min(at.saturating_duration_since(Instant::now()));
            }
        }
        self.driver.turn(longest)?;
        while let Some(event) = self.driver.node.poll_event() {
            let mut refusal = None;
            for contact in &mut self.contacts {
                refusal = contact.handle_event(&mut self.driver, &event).err().or(refusal);
            }
            self.contacts.retain(|contact| !contact.is_refused());
            match refusal {
                // With none left there is nobody to publish to.
                Some(error) if self.contacts.is_empty() => return Err(error),
                Some(error) => say(&error.to_string()),
                None => {}
            }
        }
        Ok(())
    }

    /// Ends the channel and waits until the relays have all of it.
    fn finish(mut self, channel: ChannelId) -> Result<(), Error> {
        let now = self.driver.now();
        self.driver.node.finish(now, channel);
        // Whoever asks for the end while no relay answers does not want to wait for one.
        let interrupted = self.interrupt.is_set();
        let in_vain = interrupted && !self.contacts.iter().any(Contact::is_connected);
        let give_up_at = Instant::now() + if in_vain { Duration::ZERO } else { DRAIN_MAX };
        while !self.contacts.is_empty() && !self.is_drained(channel) && Instant::now() < give_up_at {
            self.turn(Duration::from_secs(1))?;
        }
        let behind = self.contacts.iter().filter(|contact| !contact.is_connected()).count();
        let nobody = behind == self.contacts.len();
        if !nobody && !self.is_drained(channel) {
            say("the end of the stream did not reach every relay: one of them does not answer");
        }
        let counters = self.driver.node.counters();
        say(&format!(
            "published: chunks {}, datagrams {}, sent again {}",
            counters.chunks, counters.shards_sent, counters.repairs_sent
        ));
        self.driver.close()?;
        if nobody && !in_vain { Err(Error::Unreached) } else { Ok(()) }
    }

    fn is_drained(&self, channel: ChannelId) -> bool {
        self.contacts.iter().all(Contact::is_connected) && self.driver.node.is_drained(channel)
    }
}

/// A stream on its way into a node: join points are found, and the user is told what it is.
pub(crate) struct Stream {
    channel: ChannelId,
    scanner: Scanner,
    begun: Option<Instant>,
    joins: u64,
    told: bool,
}

impl Stream {
    pub(crate) fn new(channel: ChannelId) -> Stream {
        Stream { channel, scanner: Scanner::new(), begun: None, joins: 0, told: false }
    }

    pub(crate) fn push(&mut self, driver: &mut Driver, bytes: &[u8]) {
        let (now, channel) = (driver.now(), self.channel);
        let joins = &mut self.joins;
        if self.scanner.is_mpeg_ts() == Some(false) {
            // Nothing says where a viewer may start, so anywhere is as good.
            driver.node.next_is_join_point(channel);
        }
        self.scanner.push(bytes, &mut |piece| {
            if let Some(back) = piece.join {
                driver.node.mark_join_point(now, channel, back);
                *joins += 1;
            }
            driver.node.push(now, channel, piece.bytes);
        });
        driver.node.hold_back(channel, self.scanner.join_reach_bytes());
        self.tell();
    }

    /// A word about a stream that late viewers cannot join well; once.
    fn tell(&mut self) {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        if self.told {
            return;
        }
        self.told = true;
        match self.scanner.is_mpeg_ts() {
            Some(false) => say("the input is not MPEG-TS: carried as bytes, late viewers start at any chunk"),
            Some(true) if self.joins == 0 && begun.elapsed() > NO_JOIN_POINT_WAIT => {
                say("the stream marks no random-access points: late viewers start anywhere in it");
            }
            _ => self.told = self.joins > 0,
        }
    }
}
