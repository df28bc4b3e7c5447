//! `tidings bench`: measures servers that push events, this one by default.

mod signals;

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tidings::hub::Timestamp;
use tidings::server::auth::{KeyConfig, NewToken, Secret};
use tidings_bench::ratios::{Compared, Ratios};
use tidings_bench::results::{Results, Run};
use tidings_bench::scenario::{SCENARIOS, Scenario, Settings, USUAL};
use tidings_bench::target::Target;
use tidings_bench::{Servers, report};

use crate::args;
use crate::outcome::Usage;
use crate::output;

/// What is called so is this program itself.
const THIS: &str = "tidings";
/// How many subscribers there are in the table that tutorials show.
const CLASSIC: usize = 1000;
/// How long a benchmark's tokens are good.
const TOKENS: Duration = Duration::from_secs(86_400);

pub(crate) fn run(args: &args::Bench) -> Result<()> {
    if args.list {
        return list();
    }
    let baseline = args.baseline.as_deref().map(Ratios::read).transpose();
    let baseline = baseline.map_err(|wrong| Usage(wrong.to_string()))?;
    let scenarios = scenarios(args, baseline.as_ref())?;
    let settings = settings(args)?;
    let targets = targets(args)?;
    if baseline.is_some() && targets.len() != 2 {
        bail!(Usage(
            "--baseline takes two targets: the one that is judged, and what it is compared with".to_owned()
        ));
    }
    signals::heed(settings.servers.clone())?;
    let results = measure(&scenarios, &settings, &targets);
    if args.classic {
        output::line(report::classic(&results).trim_end())?;
    }
    write(args, &results)?;
    judge(args, &results)?;
    match (&args.baseline, baseline) {
        (Some(file), Some(baseline)) => compare(file, &baseline, args.bless, &results),
        _ => Ok(()),
    }
}

fn list() -> Result<()> {
    for scenario in SCENARIOS {
        let usual = if USUAL.contains(&scenario.name) { "*" } else { " " };
        output::line(&format!("{usual} {:<14}{}", scenario.name, scenario.about))?;
    }
    output::line("\n* is run when nothing is chosen")
}

fn scenarios(args: &args::Bench, baseline: Option<&Ratios>) -> Result<Vec<Scenario>> {
    let named = |name: &str| {
        let unknown =
            || Usage(format!("there is no scenario {name:?}; `tidings bench --list` says which there are"));
        Scenario::named(name).ok_or_else(unknown)
    };
    if args.classic {
        return Ok(vec![named("fan-out")?]);
    }
    if args.all {
        return Ok(SCENARIOS.to_vec());
    }
    let chosen = args.scenario.iter().map(String::as_str);
    let names: Vec<&str> = match baseline {
        _ if !args.scenario.is_empty() => chosen.collect(),
        Some(baseline) => baseline.scenarios().collect(),
        None => USUAL.to_vec(),
    };
    Ok(names.into_iter().map(named).collect::<Result<_, _>>()?)
}

fn settings(args: &args::Bench) -> Result<Settings> {
    if args.server_cpus.is_some() || args.client_cpus.is_some() {
        let found = std::process::Command::new("taskset").arg("--version").output();
        if !found.is_ok_and(|output| output.status.success()) {
            bail!(Usage(
                "--server-cpus and --client-cpus take `taskset` (of util-linux), which is not here"
                    .to_owned()
            ));
        }
    }
    let mut unpinned = None;
    if let Some(cpus) = &args.client_cpus {
        unpinned = own_cpus();
        // What publishes is this process.
        let pid = std::process::id().to_string();
        let pinned = std::process::Command::new("taskset").args(["-a", "-c", "-p", cpus, &pid]).output();
        let pinned = pinned.context("taskset can't be started")?;
        if !pinned.status.success() {
            bail!(Usage(format!("--client-cpus {cpus}: {}", String::from_utf8_lossy(&pinned.stderr).trim())));
        }
    }
    let this = std::env::current_exe().context("this program does not know where it is")?;
    let role = |command: &str| vec![this.to_string_lossy().into_owned(), command.to_owned()];
    Ok(Settings {
        subscribers: args.subscribers.map_or(CLASSIC, |count| count as usize),
        rate: args.rate.unwrap_or(10.0),
        size: args.size as usize,
        seconds: args.seconds.into(),
        rounds: args.rounds as usize,
        data_dir: data_dir(args)?,
        server_cpus: args.server_cpus.clone(),
        client_cpus: args.client_cpus.clone(),
        unpinned,
        agent: role("bench-clients"),
        supervisor: role("bench-server"),
        servers: Servers::default(),
    })
}

/// Where servers have their folders. They run in others, so that the path has to be whole.
fn data_dir(args: &args::Bench) -> Result<PathBuf> {
    let Some(folder) = &args.data_dir else { return Ok(std::env::temp_dir()) };
    let whole =
        folder.canonicalize().map_err(|error| Usage(format!("--data-dir {}: {error}", folder.display())))?;
    if !whole.is_dir() {
        bail!(Usage(format!("--data-dir {} is no folder", folder.display())));
    }
    Ok(whole)
}

/// The processors that this process may run on, as `taskset` takes them.
fn own_cpus() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    Some(list.trim().to_owned())
}

fn targets(args: &args::Bench) -> Result<Vec<Target>> {
    if let Some(url) = &args.url {
        let target = Target::running_tidings(url, args.token.as_deref());
        return Ok(vec![target.map_err(|bad| Usage(format!("--url {url:?}: {bad}")))?]);
    }
    let chosen = args.target.iter().map(String::as_str);
    let names: Vec<&str> = if args.target.is_empty() { vec![THIS] } else { chosen.collect() };
    names.into_iter().map(|name| if name == THIS { this() } else { named(Path::new(name)) }).collect()
}

fn named(file: &Path) -> Result<Target> {
    Target::read(file).map_err(|bad| Usage(bad.to_string()).into())
}

/// This program, as a server.
fn this() -> Result<Target> {
    let binary = std::env::current_exe().context("this program does not know where it is")?;
    let mut random = [0; 32];
    getrandom::fill(&mut random).context("the system has no randomness")?;
    let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let key = KeyConfig::secret(Secret::new(secret.as_str()));
    let token = move |user: &str| {
        let user = user.parse().ok();
        let new = NewToken { user, grants: Default::default(), admin: false, info: None, ttl: TOKENS };
        // A secret of 64 characters signs anything.
        new.sign(&key, "tidings", Timestamp::now()).map(|token| token.expose().to_owned()).unwrap_or_default()
    };
    Ok(Target::tidings(&binary, &secret, token))
}

fn measure(scenarios: &[Scenario], settings: &Settings, targets: &[Target]) -> Results {
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(scenarios.len() as u64)
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    let mut runs = Vec::new();
    for scenario in scenarios {
        let say = |target: &Target, what: &str| {
            bar.set_message(format!("{} with {}: {what}", scenario.name, target.name));
        };
        runs.extend(scenario.run(settings, targets, &say));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Results { machine: tidings_bench::machine(settings), runs }
}

fn write(args: &args::Bench, results: &Results) -> Result<()> {
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    if to_stdout {
        output::line(&report::json(results))?;
    } else if !args.classic {
        output::line(report::table(results).trim_end())?;
    }
    if let Some(file) = args.json.as_ref().filter(|_| !to_stdout) {
        write_file(file, &report::json(results))?;
    }
    let mut plots = Vec::new();
    if let Some(dir) = &args.svg {
        fs::create_dir_all(dir).with_context(|| format!("{} can't be made", dir.display()))?;
        for (name, svg) in report::plots(results) {
            let file = dir.join(name);
            write_file(&file, &svg)?;
            plots.push(file);
        }
    }
    if let Some(file) = &args.markdown {
        let plots: Vec<PathBuf> = plots.iter().map(|plot| beside(plot, file)).collect();
        let text =
            if args.classic { report::classic_markdown(results) } else { report::markdown(results, &plots) };
        write_file(file, &text)?;
    }
    Ok(())
}

/// A plot's path as a document names it that stands in this file.
fn beside(plot: &Path, document: &Path) -> PathBuf {
    let folder = document.parent().unwrap_or(Path::new(""));
    plot.strip_prefix(folder).unwrap_or(plot).to_owned()
}

fn write_file(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("{} can't be written", file.display()))
}

/// A run in which something was lost, or that cost more than it may, has failed.
fn judge(args: &args::Bench, results: &Results) -> Result<()> {
    let bad: Vec<&Run> = results.runs.iter().filter(|run| !run.is_good()).collect();
    if let Some(run) = bad.first() {
        let what = run.failed.as_ref().or(run.violations.first()).map_or("", String::as_str);
        let others = match bad.len() - 1 {
            0 => String::new(),
            others => format!(", and {others} more"),
        };
        bail!("{} with {} failed: {what}{others}", run.scenario, run.target);
    }
    let Some(max) = args.max_memory else { return Ok(()) };
    let figures = results.runs.iter().filter_map(|run| Some((run, run.figure("memory a connection")?)));
    let mut any = false;
    for (run, memory) in figures {
        any = true;
        if memory > max {
            bail!(
                "{} with {}: a connection costs {memory:.0} bytes, {max:.0} are allowed",
                run.scenario,
                run.target
            );
        }
    }
    if !any {
        bail!(Usage(
            "--max-memory takes a scenario that measures it, with 5,000 subscribers or more".to_owned()
        ));
    }
    Ok(())
}

/// Compares with the ratios of a file, or renews them.
fn compare(file: &Path, baseline: &Ratios, bless: bool, results: &Results) -> Result<()> {
    let compared = baseline.compare(results);
    let (good, bad): (Vec<&Compared>, Vec<&Compared>) = compared.iter().partition(|one| one.is_good());
    for one in good {
        output::line(&format!("  {one}"))?;
    }
    for one in &bad {
        output::line(&format!("! {one}"))?;
    }
    if bless && let Some(lost) = compared.iter().find(|one| !one.is_measured()) {
        bail!("{} is not written: {lost}", file.display());
    }
    if bless {
        return write_file(file, &baseline.renewed(&compared, results));
    }
    match bad.first() {
        None => Ok(()),
        Some(first) if bad.len() == 1 => bail!("a ratio is worse than {} allows: {first}", file.display()),
        Some(first) => {
            bail!("{} ratios are worse than {} allows, the first: {first}", bad.len(), file.display())
        }
    }
}
