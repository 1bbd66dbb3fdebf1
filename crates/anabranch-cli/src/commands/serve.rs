//! `serve`: databases over HTTP.

use std::io::{self, Write};
use std::path::PathBuf;

use anabranch_server::{Config, Create, Limits, Location, ServeError, Server, SqlLimits, Tokens};

use crate::args;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Outcome;

/// Files that a server wants to have open: a connection is one, a database that is open for SQL about
/// ten. Shells start programs with 1024.
const FILES: u64 = 65_536;

pub(super) async fn serve(args: args::Serve, ctx: &Context) -> Result<Outcome, Failure> {
    let quiet = ctx.style.quiet || args.log_format == args::LogFormat::Json;
    let config = config(args, ctx)?;
    let banner = Banner::of(&config);
    if let Err(error) = rlimit::increase_nofile_limit(FILES) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
    let server = Server::bind(config).await.map_err(|e| match e {
        e @ ServeError::Open { .. } => Failure::Usage(e.to_string()),
        e => Failure::Serve(e),
    })?;
    if quiet {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            data = banner.data,
            listen = %format_args!("http://{}", server.address()),
            metrics = server.metrics_address().map(|a| format!("http://{a}/metrics")),
            "serving"
        );
    } else {
        // Nobody is left to tell if standard error is closed.
        let _ = banner.write(&mut io::stderr().lock(), &server);
    }
    let stop = ctx.stop.clone();
    server
        .run(async move {
            stop.cancelled().await;
            tracing::info!("stopping: what is under way is finished first");
        })
        .await;
    tracing::info!("stopped");
    Ok(Outcome { exit: Exit::Done, report: None, failure: None })
}

fn config(args: args::Serve, ctx: &Context) -> Result<Config, Failure> {
    let data = Location::parse(&args.data).map_err(|e| Failure::Usage(e.to_string()))?;
    let scratch = args.scratch.clone().unwrap_or_else(|| match data.is_folder() {
        Some(folder) => folder.to_owned(),
        None => std::env::temp_dir(),
    });
    let tokens = args.auth_token_file.as_deref().map(Tokens::read).transpose();
    let tokens = tokens.map_err(Failure::Tokens)?;
    let limits = Limits {
        libsql_body: args.limits.max_libsql_body.as_u64(),
        push_body: args.limits.max_body.as_u64(),
        connections: args.limits.max_connections,
        requests_per_database: args.limits.max_requests,
        headers: args.limits.header_timeout,
        stall: args.limits.stall_timeout,
        push_session: args.limits.push_session,
        idle_database: args.limits.idle_database,
        grace: args.limits.grace,
        sql_body: args.sql.max_sql_body.as_u64(),
        sql_streams: args.sql.sql_streams,
        sql_streams_per_database: args.sql.sql_streams_each,
        sql_stream_idle: args.sql.sql_stream_idle,
        sql_sockets: args.sql.sql_sockets,
        ..Limits::default()
    };
    let sql = SqlLimits {
        transaction_idle: args.sql.sql_transaction_idle,
        transaction: args.sql.sql_transaction,
        statement: args.sql.sql_statement,
        busy: args.sql.sql_busy,
        result: args.sql.sql_result.as_u64(),
        cursor: args.sql.sql_cursor.as_u64(),
    };
    let domain = args.domain.trim_matches('.').to_ascii_lowercase();
    Ok(Config {
        endpoint: ctx.global.endpoint.clone(),
        listen: args.listen,
        metrics_listen: args.metrics_listen,
        tokens,
        tenant_by: match args.tenant_by {
            args::TenantBy::Path => anabranch_server::TenantBy::Path,
            args::TenantBy::Host => anabranch_server::TenantBy::Host(domain),
        },
        create: match args.create {
            args::CreateWhen::Push => Create::OnPush,
            args::CreateWhen::Explicit => Create::Explicit,
        },
        advertise: args.advertise,
        sole: args.sole_server,
        heal: args.heal == args::Switch::On,
        retain: args.retain,
        limits,
        sql,
        read_fresh: args.read_fresh,
        ..Config::new(data, scratch_folder(scratch))
    })
}

/// As it stands: the store makes the data folder if it is not there yet.
fn scratch_folder(folder: PathBuf) -> PathBuf {
    std::path::absolute(&folder).unwrap_or(folder)
}

/// What a server says when it starts.
struct Banner {
    data: String,
    by_host: Option<String>,
    tokens: bool,
    explicit: bool,
    sole: bool,
}

impl Banner {
    fn of(config: &Config) -> Self {
        Banner {
            data: config.data.to_string(),
            by_host: match &config.tenant_by {
                anabranch_server::TenantBy::Path => None,
                anabranch_server::TenantBy::Host(domain) => Some(domain.clone()),
            },
            tokens: config.tokens.is_some(),
            explicit: config.create == Create::Explicit,
            sole: config.sole,
        }
    }

    fn write(&self, out: &mut dyn Write, server: &Server) -> io::Result<()> {
        let address = server.address();
        let url = match &self.by_host {
            None => format!("http://{address}/NAME"),
            Some(domain) => format!("http://NAME.{domain}:{}", address.port()),
        };
        let access = match self.tokens {
            true => "with a token",
            false => "programs on this machine, without a token",
        };
        let created = match self.explicit {
            true => format!("made by PUT http://{address}/admin/v1/databases/NAME"),
            false => "made by the first push to their name".to_owned(),
        };
        writeln!(out, "anabranch {} serves {}", env!("CARGO_PKG_VERSION"), self.data)?;
        writeln!(out, "  listening  http://{address}")?;
        if let Some(metrics) = server.metrics_address() {
            writeln!(out, "  metrics    http://{metrics}/metrics")?;
        }
        writeln!(out, "  databases  {url}, {created}")?;
        writeln!(out, "  access     {access}")?;
        if self.sole {
            writeln!(out, "  store      nothing else writes to it (--sole-server)")?;
        }
        writeln!(out, "Ctrl-C stops it; what was acknowledged is on the store already.")
    }
}
