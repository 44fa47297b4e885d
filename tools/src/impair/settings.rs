//! Impairments on the command line.

use std::time::Duration;

use super::link::{Impairment, Queue};

/// The options of one direction: `--loss` and so on, or `--back-loss`.
macro_rules! direction {
    ($name:ident, $heading:literal, $prefix:literal) => {
        #[doc = concat!("Impairments ", $heading, ".")]
        #[derive(clap::Args, Debug, Clone)]
        #[command(next_help_heading = concat!("Impairments ", $heading))]
        pub(super) struct $name {
            /// Datagrams that are lost, in percent: 3% or 0.5
            #[arg(id = concat!($prefix, "loss"), long = concat!($prefix, "loss"), value_name = "PERCENT", default_value = "0%", value_parser = share)]
            loss: f64,
            /// Losses come in runs of this mean length, in datagrams [default: each by itself]
            #[arg(id = concat!($prefix, "burst"), long = concat!($prefix, "burst"), value_name = "N")]
            burst: Option<f64>,
            /// How long each datagram takes: 50ms or 1s
            #[arg(id = concat!($prefix, "delay"), long = concat!($prefix, "delay"), value_name = "TIME", default_value = "0ms", value_parser = time)]
            delay: Duration,
            /// Up to so much more, changing all the time; nothing overtakes by it
            #[arg(id = concat!($prefix, "jitter"), long = concat!($prefix, "jitter"), value_name = "TIME", default_value = "0ms", value_parser = time)]
            jitter: Duration,
            /// Datagrams that are overtaken by later ones, in percent
            #[arg(id = concat!($prefix, "reorder"), long = concat!($prefix, "reorder"), value_name = "PERCENT", default_value = "0%", value_parser = share)]
            reorder: f64,
            /// How much later an overtaken datagram comes, at most
            #[arg(id = concat!($prefix, "reorder-by"), long = concat!($prefix, "reorder-by"), value_name = "TIME", default_value = "5ms", value_parser = time)]
            reorder_by: Duration,
            /// Datagrams that come twice, in percent
            #[arg(id = concat!($prefix, "duplicate"), long = concat!($prefix, "duplicate"), value_name = "PERCENT", default_value = "0%", value_parser = share)]
            duplicate: f64,
            /// Bits per second that pass, IP headers included: 800K or 2M [default: all]
            #[arg(id = concat!($prefix, "rate"), long = concat!($prefix, "rate"), value_name = "RATE", value_parser = bits)]
            rate: Option<u64>,
            /// What may wait for the rate: 100ms, or bytes as in 64000; what finds no room is dropped
            #[arg(id = concat!($prefix, "queue"), long = concat!($prefix, "queue"), value_name = "TIME|BYTES", default_value = "100ms", value_parser = queue)]
            queue: Queue,
        }

        impl $name {
            /// The impairment, if it is one that there can be.
            ///
            /// # Errors
            /// What is wrong.
            pub(super) fn impairment(&self) -> Result<Impairment, String> {
                if let (Some(burst), 0.0) = (self.burst, self.loss) {
                    return Err(format!("bursts of {burst} datagrams, and none is lost: say how many, as in 3%"));
                }
                let impairment = Impairment {
                    loss: self.loss,
                    burst: self.burst,
                    delay: self.delay,
                    jitter: self.jitter,
                    reorder: self.reorder,
                    reorder_by: self.reorder_by,
                    duplicate: self.duplicate,
                    rate_bps: self.rate,
                    queue: self.queue,
                };
                impairment.check().map(|()| impairment)
            }
        }
    };
}

direction!(Forth, "on the way there", "");
direction!(Back, "on the way back", "back-");

/// A share from a percentage, with or without its sign.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let digits = text.strip_suffix('%').unwrap_or(text).trim_end();
    let percent =
        digits.parse::<f64>().map_err(|_| "a percentage is a number, as in 3% or 0.5".to_owned())?;
    if (0.0..=100.0).contains(&percent) {
        Ok(percent / 100.0)
    } else {
        Err("it must be from 0 to 100".to_owned())
    }
}

/// The longest time that makes sense here.
const TIME_MAX: Duration = Duration::from_secs(60);

pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; a time has a unit, as in 50ms or 1s"))?;
    if time <= TIME_MAX { Ok(time) } else { Err("it must be 60 s at most".to_owned()) }
}

pub(crate) fn bits(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1_000),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let number = digits.parse::<f64>().map_err(|_| "a rate is a number, as in 800K or 2.5M".to_owned())?;
    let bits = number * f64::from(unit);
    let possible = (1_000.0..=1e12).contains(&bits);
    if possible { Ok(bits as u64) } else { Err("it must be from 1K to 1000G".to_owned()) }
}

fn queue(text: &str) -> Result<Queue, String> {
    match text.parse() {
        Ok(bytes) => Ok(Queue::Bytes(bytes)),
        Err(_) => time(text).map(Queue::Time).map_err(|error| format!("{error}; a number alone is bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_people_write_them() {
        assert_eq!((share("3%"), share("0.5"), share("100 %")), (Ok(0.03), Ok(0.005), Ok(1.0)));
        assert_eq!(time("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!((bits("2M"), bits("2.5m"), bits("800K")), (Ok(2_000_000), Ok(2_500_000), Ok(800_000)));
        assert_eq!(queue("64000"), Ok(Queue::Bytes(64_000)));
        assert_eq!(queue("100ms"), Ok(Queue::Time(Duration::from_millis(100))));
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        assert!([share("101%"), share("-1"), share("nan"), share("")].iter().all(Result::is_err));
        assert!(time("50").is_err() && time("2m").is_err());
        assert!(bits("0").is_err() && bits("M").is_err() && bits("").is_err());
        assert!(queue("full").is_err());
    }
}
