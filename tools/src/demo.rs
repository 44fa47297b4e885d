//! `superpeer demo`: everything at once, on this machine.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use crate::Error;

/// Show it all on this machine: a relay, a publisher and viewers
///
/// Runs a relay, a publisher of a built-in stream and viewers on this machine, shows a live table, and compares at the
/// end what every viewer got with what was published.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  superpeer demo --viewers 200 --seconds 30 --bitrate 8M")]
pub struct Args {
    /// How many viewers watch (1 to 1000)
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub viewers: u32,
    /// For how many seconds to publish (1 to 3600)
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Bits per second of the stream, with K or M for thousands or millions (100K to 100M)
    #[arg(long, value_name = "RATE", default_value_t = Bitrate { bits_per_second: 4_000_000 })]
    pub bitrate: Bitrate,
}

impl Args {
    /// For how long to publish.
    pub fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

/// A stream's speed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bitrate {
    /// In bits per second.
    pub bits_per_second: u64,
}

const BITRATE_MIN: Bitrate = Bitrate { bits_per_second: 100_000 };
const BITRATE_MAX: Bitrate = Bitrate { bits_per_second: 100_000_000 };

impl FromStr for Bitrate {
    type Err = String;

    fn from_str(text: &str) -> Result<Bitrate, String> {
        let (digits, unit) = match text.trim_end_matches(['k', 'K', 'm', 'M']) {
            digits if digits.len() == text.len() => (digits, 1),
            digits if text[digits.len()..].eq_ignore_ascii_case("k") => (digits, 1_000),
            digits if text[digits.len()..].eq_ignore_ascii_case("m") => (digits, 1_000_000),
            _ => ("", 0),
        };
        let number: u64 =
            digits.parse().map_err(|_| "a bit rate is a whole number, as in 800K or 4M".to_owned())?;
        let bits_per_second = number.saturating_mul(unit);
        if !(BITRATE_MIN.bits_per_second..=BITRATE_MAX.bits_per_second).contains(&bits_per_second) {
            return Err(format!("it must be from {BITRATE_MIN} to {BITRATE_MAX}"));
        }
        Ok(Bitrate { bits_per_second })
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits_per_second {
            bits if bits % 1_000_000 == 0 => write!(f, "{}M", bits / 1_000_000),
            bits if bits % 1_000 == 0 => write!(f, "{}K", bits / 1_000),
            bits => write!(f, "{bits}"),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When a viewer's bytes differ from what was published.
pub fn run(_args: Args) -> Result<(), Error> {
    Err(Error::NotBuilt("demo"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_rate_reads_back_as_it_was_written() {
        for (text, bits_per_second) in [("4M", 4_000_000), ("800k", 800_000), ("123456", 123_456)] {
            let rate: Bitrate = text.parse().unwrap();
            assert_eq!(rate, Bitrate { bits_per_second });
            assert_eq!(rate.to_string().parse(), Ok(rate));
        }
    }

    #[test]
    fn a_wrong_bit_rate_says_what_fits() {
        for text in ["", "M", "4MM", "4G", "-1", "4.5M"] {
            assert!(text.parse::<Bitrate>().unwrap_err().contains("whole number"), "{text}");
        }
        for text in ["0", "99K", "101M", "18446744073709551615M"] {
            assert!(text.parse::<Bitrate>().unwrap_err().contains("from 100K to 100M"), "{text}");
        }
    }
}
