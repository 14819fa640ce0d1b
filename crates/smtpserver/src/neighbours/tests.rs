//! The clients against servers of the test's on real sockets, which crash when told to.

use socket::served::Served;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") });
}

async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Nothing is counted.
struct Uncounted;

impl Tally for Uncounted {
    fn count(&self, _: Counter, _: u64) {}

    fn job(&self) -> Job {
        Job::uncounted()
    }
}

struct Case {
    directory: tempfile::TempDir,
    farms: Farms,
}

impl Case {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = ClientSettings { deadline: Duration::from_secs(5), waiting_max: 10 };
        let path = |name: &str| directory.path().join(name);
        let clients = Clients {
            verify: Client::new(path("verify"), settings.clone()),
            inspect: Client::new(path("inspect"), settings.clone()),
            route: Client::new(path("route"), settings.clone()),
            strike: Client::new(path("strike"), settings),
        };
        let farms = Farms::new(clients, Duration::from_secs(5), Rc::new(Uncounted));
        Self { directory, farms }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }
}

#[test]
fn a_question_is_asked_elsewhere_but_not_for_ever() {
    run(async {
        let case = Case::new();
        let verify = Served::<Verify>::new(&case.path("verify"), None);
        let request = VerifyRequest {
            sender: None,
            recipients: vec!["a@example.test".parse().expect("an address")],
            client: job::verify::Client::default(),
        };
        let verify = Rc::new(verify);
        let killed = Rc::clone(&verify);
        tokio::task::spawn_local(async move {
            for deaths in 1..=ASKS_MAX as usize {
                until(|| killed.taken() == deaths).await;
                killed.cut();
            }
        });
        let answer = case.farms.verify(&request).await;
        assert!(matches!(answer, Err(Unavailable::Failed(_))));
        assert_eq!(verify.taken(), ASKS_MAX as usize);
    });
}
