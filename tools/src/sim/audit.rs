//! Bounds of a process that are looked at from outside.

use mesh::SLOT_BYTES;

use super::host::Process;

/// Which bound a process exceeds.
pub(super) fn exceeded(process: &Process) -> Option<String> {
    let limits = &process.limits;
    let mut subscribers = 0;
    for unit in &process.units {
        let (used, most) = (unit.node.window_bytes(), unit.own_slots * SLOT_BYTES);
        if used > most {
            return Some(format!("{used} bytes of slots are in use, of {most}"));
        }
        let channels = unit.node.channels().count();
        if process.is_relay && channels > limits.channels_max {
            return Some(format!("{channels} channels, {} may be", limits.channels_max));
        }
        for channel in unit.node.channels() {
            subscribers += channel.subscribers;
            let most = limits.window_chunks_max();
            if channel.chunks > most {
                return Some(format!("a window of {} chunks, {most} may be", channel.chunks));
            }
        }
    }
    // Nodes that let one in at the same moment may each let in the one too many.
    let most = limits.subscribers_max + process.units.len() - 1;
    (process.is_relay && subscribers > most).then(|| format!("{subscribers} subscribers, {most} may be"))
}
