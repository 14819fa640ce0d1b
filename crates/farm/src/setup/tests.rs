use super::*;

const NOBODY: Owners = Owners { user: None, admin_group: None };

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o777
}

#[test]
fn a_run_dir_is_made_with_its_modes() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = directory.path().join("deep/run");
    prepare_run_dir(&run_dir, NOBODY).unwrap();
    prepare_run_dir(&run_dir, NOBODY).unwrap();
    assert_eq!(mode(&run_dir.join("sockets")), 0o750);
    assert_eq!(mode(&run_dir.join("sockets/admin")), 0o750);
    assert_eq!(mode(&run_dir.join("scoreboards")), 0o755);
    let admins = Owners { user: None, admin_group: Some(sys::effective_ids().1) };
    prepare_run_dir(&run_dir, admins).unwrap();
    assert_eq!(mode(&run_dir.join("sockets")), 0o751);
    assert_eq!(mode(&run_dir.join("sockets/admin")), 0o751);
}

#[test]
fn a_run_dir_that_others_may_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for wrong in [0o777, 0o775, 0o757] {
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(wrong)).unwrap();
        let error = prepare_run_dir(directory.path(), NOBODY).unwrap_err().to_string();
        assert!(error.contains("must not be writable by group or others"), "{error}");
    }
}

#[test]
fn a_run_dir_of_somebody_else_is_refused() {
    if sys::effective_ids().0 != 0 {
        return; // Only root can make a directory somebody else's.
    }
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(4711), None).unwrap();
    let error = prepare_run_dir(directory.path(), NOBODY).unwrap_err().to_string();
    assert!(error.contains("belongs to user 4711"), "{error}");
    let owners = Owners { user: Some((4711, 4712)), admin_group: Some(4713) };
    prepare_run_dir(directory.path(), owners).unwrap();
    assert_eq!(directory.path().join("sockets").metadata().unwrap().gid(), 4712);
    assert_eq!(directory.path().join("sockets/admin").metadata().unwrap().gid(), 4713);
    let socket = NamedSocket { name: "a.b".into(), admin: false };
    let _listener = bind_named(directory.path(), &socket, owners).unwrap();
    let metadata = socket_path(directory.path(), &socket).metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o777), (4711, 4712, 0o660));
}

#[test]
fn a_data_dir_has_one_instance_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let run = |name: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let first = lock_instance(&data_dir, &run("one"), None).unwrap();
    let second = lock_instance(&data_dir, &run("one"), None).unwrap();
    let error = lock_instance(&data_dir, &run("two"), None).unwrap_err().to_string();
    assert!(error.contains("in use by the instance whose run_dir is") && error.contains("/one"));
    drop(first);
    assert!(lock_instance(&data_dir, &run("two"), None).is_err());
    drop(second);
    let _third = lock_instance(&data_dir, &run("two"), None).unwrap();
    assert!(lock_instance(&data_dir, &run("one"), None).is_err());
}

#[test]
fn a_farm_has_one_manager_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    prepare_run_dir(directory.path(), NOBODY).unwrap();
    let first = lock_farm(directory.path(), "router").unwrap();
    assert!(lock_farm(directory.path(), "router").is_err());
    lock_farm(directory.path(), "scheduler").unwrap();
    drop(first);
    lock_farm(directory.path(), "router").unwrap();
}

#[test]
fn a_port_in_use_is_named() {
    let listen = |address: std::net::SocketAddr| TcpListen { name: "mx".into(), address };
    let taken = bind_tcp(&listen("127.0.0.1:0".parse().unwrap())).unwrap();
    let address = taken.local_addr().unwrap();
    let error = bind_tcp(&listen(address)).unwrap_err().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("another program"), "{error}");
}

#[test]
fn a_start_waits_for_the_port_that_a_dead_instance_leaves() {
    let listen = |address: std::net::SocketAddr| TcpListen { name: "mx".into(), address };
    let taken = bind_tcp(&listen("127.0.0.1:0".parse().unwrap())).unwrap();
    let address = taken.local_addr().unwrap();
    let left = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        drop(taken);
    });
    bind_tcp_at_start(&listen(address)).unwrap();
    left.join().unwrap();
}

#[test]
fn a_symbolic_link_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = directory.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let before = mode(&elsewhere);
    let run_dir = directory.path().join("run");
    std::fs::create_dir(&run_dir).unwrap();
    std::os::unix::fs::symlink(&elsewhere, run_dir.join("sockets")).unwrap();
    let error = prepare_run_dir(&run_dir, NOBODY).unwrap_err().to_string();
    assert!(error.contains("sockets"), "{error}");
    assert_eq!(mode(&elsewhere), before);
}

#[test]
fn managers_that_start_together_share_the_instance() {
    let directory = tempfile::tempdir().unwrap();
    let (data_dir, run_dir) = (directory.path().join("data"), directory.path().join("run"));
    std::fs::create_dir(&run_dir).unwrap();
    let locked = std::thread::scope(|scope| {
        let managers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| lock_instance(&data_dir, &run_dir, None))).collect();
        managers.into_iter().map(|manager| manager.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(locked.iter().all(Result::is_ok), "{locked:?}");
}
