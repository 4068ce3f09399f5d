//! Nothing acknowledged is lost: several people write and read at once, the server is killed at a random moment and started
//! again, and everything that it had acknowledged is there, once.
//!
//! `CHAPPE_CRASH_ROUNDS` says how often (30), `CHAPPE_CRASH_SEED` repeats the random choices of an earlier run (the timing of
//! the threads is the system's). With `LAUNCHER` the same goes for another server, without `chappe check`.

mod http;
mod reader;
mod verify;
mod writer;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::{env, io, thread};

use launched::Server;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use http::Connection;
use reader::Reader;
use writer::{Person, Writer, text};

/// How many people write, each of them on a connection of its own and with another one that syncs.
const PEOPLE: usize = 6;
/// After how many rounds a new server takes over, so that a thousand rounds do not spend their time on checking the first ones,
/// and a fast machine does not come to the 1,000 one-time keys that a device may have.
const ROUNDS_PER_SERVER: u64 = 15;

#[test]
fn nothing_acknowledged_is_lost_in_a_crash() -> io::Result<()> {
    let rounds = number("CHAPPE_CRASH_ROUNDS")?.unwrap_or(30);
    #[expect(clippy::disallowed_methods, reason = "another seed each time; it is printed, to be given again")]
    let seed = number("CHAPPE_CRASH_SEED")?.unwrap_or_else(rand::random);
    println!("{rounds} rounds, CHAPPE_CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut done = 0;
    while done < rounds {
        let mut town = Town::new(&mut random)?;
        for _ in 0..ROUNDS_PER_SERVER.min(rounds - done) {
            done += 1;
            town.crash(&mut random)?;
            println!("round {done}: {}", town.verify()?);
        }
    }
    Ok(())
}

/// A server and the people on it, all of them in one room.
struct Town {
    server: Server,
    room_id: String,
    writers: Vec<Writer>,
    /// In the order of `writers`: each person reads with one of these.
    readers: Vec<Reader>,
    /// The newest event that was verified.
    last_event: Option<String>,
}

impl Town {
    fn new(random: &mut StdRng) -> io::Result<Self> {
        let server = Server::start(Some(Path::new(env!("CARGO_BIN_EXE_chappe"))))?;
        let prefix: u32 = random.random();
        let people: Vec<Person> =
            (0..PEOPLE).map(|n| register(server.address(), &format!("p{prefix:x}-{n}"))).collect::<io::Result<_>>()?;
        // Everybody may write state, so that nobody's state events have to be left out.
        let everybody = json!({ "preset": "public_chat", "power_level_content_override": { "state_default": 0 } });
        let mut connection = Connection::open(server.address(), &people[0].token)?;
        let room_id = text(&connection.request("POST", "createRoom", &everybody)?["room_id"]);
        for person in &people[1..] {
            Connection::open(server.address(), &person.token)?.request(
                "POST",
                &format!("join/{room_id}"),
                &json!({}),
            )?;
        }
        let mut readers: Vec<Reader> = people.iter().map(|_| Reader::default()).collect();
        for (reader, person) in readers.iter_mut().zip(&people) {
            reader.catch_up(&mut Connection::open(server.address(), &person.token)?)?;
            reader.begin_round();
        }
        let last_event = verify::history(&mut connection, &room_id, None)?.last().map(|event| text(&event["event_id"]));
        let neighbors = people.iter().cycle().skip(1);
        let writers = people
            .iter()
            .zip(neighbors)
            .map(|(person, neighbor)| Writer::new(person.clone(), neighbor.clone(), room_id.clone()));
        Ok(Self { writers: writers.collect(), readers, room_id, server, last_event })
    }

    /// Lets everybody write and read, kills the server meanwhile, and starts it again.
    fn crash(&mut self, random: &mut StdRng) -> io::Result<()> {
        let address = self.server.address();
        let moment = Duration::from_micros(random.random_range(0..400_000));
        thread::scope(|scope| -> io::Result<()> {
            for (writer, reader) in self.writers.iter_mut().zip(&mut self.readers) {
                let seed = random.random();
                let writing = Connection::open(address, &writer.person.token)?;
                let reading = Connection::open(address, &writer.person.token)?;
                scope.spawn(move || writer.write(writing, seed));
                scope.spawn(move || reader.read(reading));
            }
            thread::sleep(moment);
            self.server.kill()
        })?;
        check(&self.server)?;
        if random.random_range(0..4) == 0 {
            // Recovery itself may be cut short.
            self.server.kill_while_starting(Duration::from_micros(random.random_range(0..50_000)))?;
        }
        self.server.restart()
    }

    /// Panics unless all that was acknowledged is there, once. The result says how much that was.
    fn verify(&mut self) -> io::Result<String> {
        let address = self.server.address();
        let open = |writer: &Writer| Connection::open(address, &writer.person.token);
        for writer in &mut self.writers {
            let mut connection = open(writer)?;
            verify::send_again(writer, &mut connection)?;
            verify::registers_are_kept(writer, &self.room_id, &mut connection)?;
        }
        let history = verify::history(&mut open(&self.writers[0])?, &self.room_id, self.last_event.as_deref())?;
        verify::messages_are_there_once(&self.writers, &history);
        for (reader, writer) in self.readers.iter_mut().zip(&self.writers) {
            reader.catch_up(&mut open(writer)?)?;
            verify::syncs_were_complete(reader, &history);
        }
        for (n, writer) in self.writers.iter().enumerate() {
            let neighbor = (n + 1) % PEOPLE;
            verify::to_device_came_once(writer, &self.readers[neighbor]);
            verify::keys_were_given_once(&self.writers[neighbor], writer, &mut open(&self.writers[neighbor])?)?;
        }
        let to_device: usize = self.writers.iter().map(|writer| writer.to_device.len()).sum();
        self.last_event = history.last().map(|event| text(&event["event_id"])).or(self.last_event.take());
        self.writers.iter_mut().for_each(Writer::begin_round);
        self.readers.iter_mut().for_each(Reader::begin_round);
        Ok(format!("{} events and {to_device} to-device messages, each there once", history.len()))
    }
}

/// Runs `chappe check` on the database of the stopped server, which has to find nothing.
fn check(server: &Server) -> io::Result<()> {
    if env::var_os("LAUNCHER").is_some() {
        return Ok(());
    }
    let checked =
        Command::new(env!("CARGO_BIN_EXE_chappe")).arg("check").arg(server.directory().join("db")).output()?;
    let said = [checked.stdout, checked.stderr].concat();
    assert!(checked.status.success(), "chappe check: {}", String::from_utf8_lossy(&said));
    Ok(())
}

/// Registers an account, in the two requests that this takes.
fn register(address: SocketAddr, name: &str) -> io::Result<Person> {
    let mut connection = Connection::open(address, "")?;
    let mut request = json!({ "username": name, "password": "a password for the crash" });
    let (_, asked) = connection.exchange("POST", "register", &request)?;
    request["auth"] = json!({ "type": "m.login.dummy", "session": asked["session"] });
    let answer: Value = connection.request("POST", "register", &request)?;
    let [user_id, device_id, token] = ["user_id", "device_id", "access_token"].map(|key| text(&answer[key]));
    Ok(Person { user_id, device_id, token })
}

/// The number in the environment variable `name`, if it is set.
fn number(name: &str) -> io::Result<Option<u64>> {
    env::var(name)
        .ok()
        .map(|value| value.parse().map_err(|_| io::Error::other(format!("{name} is no number: {value}"))))
        .transpose()
}
