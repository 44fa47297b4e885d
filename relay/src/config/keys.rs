//! Where the keys of a configuration file stand, and which of them are none.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::DEFAULT_CONFIG;

/// Keys of an entry of `channels`, which the default configuration has only in its comments.
pub(super) const CHANNEL_KEYS: [&str; 4] = ["link", "subscribers", "egress_mbps", "upstreams"];

/// The list whose entries may be tables.
const CHANNELS: &str = "channels";

/// Names that are less alike than this are not what was meant.
const ALIKE: f64 = 0.75;

/// A key that no configuration has.
pub(super) struct UnknownKey {
    /// Of the file, from 1 on.
    pub(super) line: usize,
    /// With the names of the tables that it is in.
    pub(super) key: String,
    /// As it stands there.
    pub(super) value: String,
    /// The key that was probably meant.
    pub(super) meant: Option<String>,
}

/// The first key of a well-formed file that is not one of the default configuration's.
pub(super) fn unknown_key(text: &str) -> Option<UnknownKey> {
    let known =
        DeTable::parse(DEFAULT_CONFIG).expect("the default configuration is well-formed").into_inner();
    let file = DeTable::parse(text).ok()?.into_inner();
    find_unknown(text, "", &file, &known)
}

fn find_unknown(text: &str, prefix: &str, table: &DeTable<'_>, known: &DeTable<'_>) -> Option<UnknownKey> {
    let names: Vec<&str> = known.iter().map(|(name, _)| name.get_ref().as_ref()).collect();
    table.iter().find_map(|(name, value)| {
        let path = format!("{prefix}{}", name.get_ref());
        let Some(ours) = known.get(name.get_ref().as_ref()) else {
            return Some(unknown(text, prefix, name, value, &names));
        };
        match (value.get_ref(), ours.get_ref()) {
            (DeValue::Table(table), DeValue::Table(known)) => {
                find_unknown(text, &format!("{path}."), table, known)
            }
            (DeValue::Array(entries), _) if path == CHANNELS => entries.iter().find_map(|entry| {
                let mut keys = entry.get_ref().as_table()?.iter();
                let (name, value) =
                    keys.find(|(name, _)| !CHANNEL_KEYS.contains(&name.get_ref().as_ref()))?;
                Some(unknown(text, &format!("{CHANNELS}."), name, value, &CHANNEL_KEYS))
            }),
            _ => None,
        }
    })
}

fn unknown<K: AsRef<str>>(
    text: &str,
    prefix: &str,
    name: &Spanned<K>,
    value: &Spanned<DeValue<'_>>,
    names: &[&str],
) -> UnknownKey {
    let wrong = name.get_ref().as_ref();
    let likeness = |known: &&&str| strsim::jaro_winkler(known, wrong);
    let nearest = names.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    UnknownKey {
        line: line_at(text, name.span().start),
        key: format!("{prefix}{wrong}"),
        value: text[value.span()].to_owned(),
        meant: nearest.filter(|known| likeness(known) >= ALIKE).map(|known| format!("{prefix}{known}")),
    }
}

/// The line of a well-formed file on which a key stands; tables and key are parted by a dot.
pub(super) fn line_of(text: &str, path: &str) -> Option<usize> {
    let mut table = DeTable::parse(text).ok()?.into_inner();
    let (tables, name) = path.rsplit_once('.').map_or((None, path), |(tables, name)| (Some(tables), name));
    for step in tables.iter().flat_map(|tables| tables.split('.')) {
        let DeValue::Table(next) = table.remove(step)?.into_inner() else { return None };
        table = next;
    }
    let (key, _) = table.get_key_value(name)?;
    Some(line_at(text, key.span().start))
}

fn line_at(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}
