use super::*;

fn top(user: Option<&str>, group: Option<&str>, admin_group: Option<&str>) -> Top {
    let owned = |name: Option<&str>| name.map(str::to_owned);
    let (user, group, admin_group) = (owned(user), owned(group), owned(admin_group));
    Top { user, group, admin_group, ..Top::default() }
}

#[test]
fn accounts_that_are_not_there_are_named_by_their_key() {
    let cases = [
        (top(None, None, None), "user"),
        (top(Some("root"), None, None), "user"),
        (top(Some("no-such-user"), None, None), "user"),
        (top(Some("nobody"), Some("no-such-group"), None), "group"),
        (top(Some("nobody"), None, Some("no-such-group")), "admin_group"),
    ];
    for (top, key) in cases {
        let found = check(&top).err().map(|problem| problem.key);
        // Only root becomes somebody else; the administrators' group is everybody's matter.
        let expected = (geteuid().is_root() || key == "admin_group").then(|| key.to_owned());
        assert_eq!(found, expected, "{top:?}");
    }
    assert_eq!(check(&top(Some("nobody"), None, None)), Ok(()));
}

#[test]
fn a_log_is_made_for_the_workers_and_nothing_else_is_given_away() {
    let folder = std::env::temp_dir().join(format!("grange-privilege-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let owner = geteuid().is_root().then_some((65_534, 65_534));
    let log = folder.join("log");
    let to = log.to_str().unwrap();
    prepare_log(to, owner).unwrap();
    prepare_log(to, owner).unwrap();
    let made = std::fs::metadata(&log).unwrap();
    assert_eq!(made.mode() & 0o777, MODE);
    if let Some((uid, gid)) = owner {
        assert_eq!((made.uid(), made.gid()), (uid, gid));
        let other = folder.join("other");
        std::fs::write(&other, "root's own").unwrap();
        let refused = prepare_log(other.to_str().unwrap(), owner).unwrap_err().to_string();
        assert!(refused.contains("chown"), "{refused}");
        let link = folder.join("link");
        std::os::unix::fs::symlink(&other, &link).unwrap();
        prepare_log(link.to_str().unwrap(), owner).unwrap();
        assert_eq!(std::fs::metadata(&other).unwrap().uid(), 0);
    }
    std::fs::remove_dir_all(folder).unwrap();
}
