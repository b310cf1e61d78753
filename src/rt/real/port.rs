//! Who listens on a port, before this process does.
//!
//! Floor 1. Owner: broker. From `/proc/net/tcp` (proc(5)) and the open files of all processes.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{self as unix, UnixListener};
use std::path::Path;

/// `st` of a socket that listens.
const LISTEN: &str = "0A";

/// Binds without SO_REUSEPORT, which fails if any other socket listens, and lets go again. What it answers
/// keeps a second broker from passing the same check until this one listens, and after it.
pub(in crate::rt) fn check_port(address: SocketAddr) -> io::Result<UnixListener> {
    // In the abstract namespace: it goes with the process, however that ends.
    let name = unix::SocketAddr::from_abstract_name(format!("ringlog {address}"))?;
    let claim = UnixListener::bind_addr(&name)?;
    std::net::TcpListener::bind(address)?;
    Ok(claim)
}

/// Whether what listens on the port is left of a process that is gone: the kernel keeps the sockets of a
/// killed process until its ring is torn down, and its ring until the ring's last write has landed.
pub(in crate::rt) fn is_orphaned(port: u16) -> bool {
    let table = |name: &str| std::fs::read_to_string(Path::new("/proc/net").join(name)).unwrap_or_default();
    let Ok(me) = std::fs::metadata("/proc/self").map(|own| own.uid()) else { return false };
    let listening = listeners(&format!("{}\n{}", table("tcp"), table("tcp6")), port, me);
    !listening.is_empty() && own_sockets().is_ok_and(|owned| listening.is_disjoint(&owned))
}

/// Inodes of the user's sockets that listen on `port`, by tables as in `/proc/net/tcp`. Those of others are
/// not ours to judge.
fn listeners(tables: &str, port: u16, user: u32) -> BTreeSet<u64> {
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(local_port, 16) == Ok(port) && fields.get(3) == Some(&LISTEN);
        let is_own = fields.get(7)?.parse() == Ok(user);
        (is_it && is_own).then(|| fields.get(9)?.parse().ok())?
    };
    tables.lines().filter_map(inode).collect()
}

/// Inodes of the sockets that the processes which we may look into have open: all of this user's.
fn own_sockets() -> io::Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let process = entry?;
        if !process.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        // It has ended, or is another user's.
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else { continue };
        for file in files.flatten() {
            let Ok(target) = std::fs::read_link(file.path()) else { continue };
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            inodes.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
        }
    }
    Ok(inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_told_from_other_sockets() {
        let tables = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1C84 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0\n\
            \x20  1: 0100007F:1C84 0100007F:D2F0 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0 20 4 30 10 -1\n\
            \x20  2: 0100007F:1C85 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4713 1 0 100 0 0 10 0\n\
            \x20  0: 00000000000000000000000001000000:1C84 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 4714 1 0 100 0 0 10 0\n\
            nonsense : 0A\n";
        assert_eq!(listeners(tables, 7300, 1000), BTreeSet::from([4711, 4714]));
        assert_eq!(listeners(tables, 7300, 1001), BTreeSet::new());
        assert_eq!(listeners(tables, 7302, 1000), BTreeSet::new());
    }

    #[test]
    fn a_claim_keeps_others_away_and_ends() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(check_port(address).unwrap_err().kind(), io::ErrorKind::AddrInUse, "somebody listens");
        drop(listener);
        let claim = check_port(address).unwrap();
        assert_eq!(check_port(address).unwrap_err().kind(), io::ErrorKind::AddrInUse, "somebody will");
        drop(claim);
        check_port(address).unwrap();
    }

    #[test]
    fn a_listener_of_a_living_process_is_no_orphan() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let tables = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let me = std::fs::metadata("/proc/self").unwrap().uid();
        assert_eq!(listeners(&tables, port, me).len(), 1);
        assert!(!is_orphaned(port));
        drop(listener);
        assert!(!is_orphaned(port), "nobody listens");
    }
}
