//! What may stand between the network and the port, as far as it shows without privilege.

use super::finding::Finding;
use super::system::System;

/// Whether the table of connection tracking has room for a place for each subscriber.
pub(super) fn conntrack(system: &System, port: u16, subscribers: u64) -> Finding {
    let id = "conntrack";
    let Some(most) = system.number::<u64>("/proc/sys/net/netfilter/nf_conntrack_max") else {
        return Finding::ok(id, "not loaded");
    };
    let used = system.number::<u64>("/proc/sys/net/netfilter/nf_conntrack_count").unwrap_or(0);
    let mut value = format!("{used} of {most} places used");
    // Only root may read the table.
    if let Some(table) = system.read("/proc/net/nf_conntrack") {
        let of_port = |line: &&str| {
            line.contains(" udp ") && line.split(' ').any(|word| word == format!("dport={port}"))
        };
        value += &format!(", {} by UDP {port}", table.lines().filter(of_port).count());
    }
    if most.saturating_sub(used) >= subscribers {
        return Finding::ok(id, value);
    }
    let enough = (used + subscribers).next_power_of_two();
    Finding::problem(
        id,
        format!("{value}; a relay may have {subscribers} subscribers"),
        format!(
            "where a rule follows connections (ufw, firewalld and docker have such rules), each peer takes a place; when \
             none is left, datagrams of new peers to UDP {port} are dropped"
        ),
        format!(
            "`sysctl -w net.netfilter.nf_conntrack_max={enough}`, and that line in a file of /etc/sysctl.d; in a \
             container, on its host"
        ),
    )
}

/// Rules are for root to see: this names the firewalls that are switched on.
pub(super) fn firewall(system: &System, port: u16) -> Finding {
    let ufw = system
        .read("/etc/ufw/ufw.conf")
        .is_some_and(|text| text.lines().any(|line| line.trim() == "ENABLED=yes"));
    let firewalld = system.processes().iter().any(|(_, name)| name == "firewalld");
    let (value, open) = if ufw {
        ("ufw is on", format!("`ufw allow {port}/udp`"))
    } else if firewalld {
        let open = format!("`firewall-cmd --permanent --add-port={port}/udp && firewall-cmd --reload`");
        ("firewalld is on", open)
    } else {
        let open = format!(
            "if `nft list ruleset` drops by default: `nft insert rule inet filter input udp dport {port} accept`"
        );
        ("neither ufw nor firewalld seen; rules are for root to see", open)
    };
    Finding::note(
        "firewall",
        value,
        format!("unless UDP {port} is let in, here and by the provider, nobody reaches a relay"),
        format!("{open}; whether it is, `superpeer doctor --reach ADDRESS:{port}` on another machine shows"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::super::system::Made;
    use super::*;

    fn table(most: &str, used: &str) -> Made {
        Made::with(&[
            ("/proc/sys/net/netfilter/nf_conntrack_max", most),
            ("/proc/sys/net/netfilter/nf_conntrack_count", used),
        ])
    }

    #[test]
    fn a_small_table_of_connections_is_a_problem_with_the_size_that_is_enough() {
        assert_eq!(conntrack(&Made::with(&[]).system, 7450, 20_000).status, Status::Ok);
        assert_eq!(conntrack(&table("262144\n", "300\n").system, 7450, 20_000).status, Status::Ok);
        for (most, used) in [("16384\n", "300\n"), ("32768\n", "13000\n"), ("100\n", "200\n")] {
            let found = conntrack(&table(most, used).system, 7450, 20_000);
            assert_eq!(found.status, Status::Problem, "{used} of {most}");
            assert!(found.fix.unwrap().contains("nf_conntrack_max="));
        }
        let found = conntrack(&table("16384\n", "300\n").system, 7450, 20_000);
        assert!(found.fix.unwrap().contains("nf_conntrack_max=32768"));
    }

    #[test]
    fn places_of_the_port_are_counted_where_the_table_can_be_read() {
        let made = table("262144\n", "3\n");
        let line = |protocol: &str, port: u16| {
            format!(
                "ipv4     2 {protocol}      17 29 src=10.0.0.1 dst=10.0.0.2 sport=5000 dport={port} src=10.0.0.2 dst=10.0.0.1 sport={port} dport=5000 mark=0 use=1\n"
            )
        };
        made.write("/proc/net/nf_conntrack", &(line("udp", 7450) + &line("udp", 745) + &line("tcp", 7450)));
        assert_eq!(conntrack(&made.system, 7450, 20_000).value, "3 of 262144 places used, 1 by UDP 7450");
    }

    #[test]
    fn the_firewall_that_is_on_is_told_with_its_own_command() {
        let ufw = Made::with(&[("/etc/ufw/ufw.conf", "# set to yes\nENABLED=yes\nLOGLEVEL=low\n")]);
        let off = Made::with(&[("/etc/ufw/ufw.conf", "ENABLED=no\n")]);
        let firewalld = Made::with(&[("/proc/9/comm", "firewalld\n")]);
        for (made, command) in [(ufw, "ufw allow 9000/udp"), (off, "nft list"), (firewalld, "firewall-cmd")] {
            let found = firewall(&made.system, 9000);
            assert_eq!(found.status, Status::Note);
            let fix = found.fix.unwrap();
            assert!(fix.contains(command) && fix.contains("--reach ADDRESS:9000"), "{fix}");
        }
    }
}
