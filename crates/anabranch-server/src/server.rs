//! A server: bound to its addresses, then run until it is told to stop.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use anabranch_store::{Root, StoreError, StoreOptions};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::database::Shared;
use crate::databases::Databases;
use crate::housekeeping::Housekeeper;
use crate::sql::SqlSettings;
use crate::{connection, dispatch, libsql, metrics, ops, sql};

/// Why a server does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be listened at.
    #[error("listening at {address} failed")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Everybody could reach it, and nobody would be asked for a token.
    #[error(
        "without tokens the server listens on loopback addresses only, and {address} is none: \
         give --auth-token-file"
    )]
    Open {
        /// The address.
        address: SocketAddr,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) root: Root,
    pub(crate) databases: Databases,
    pub(crate) sql: sql::Service,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl App {
    /// Everything but the sockets.
    pub(crate) fn new(config: Config, root: Root) -> Arc<App> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let shared = Arc::new(Shared {
            sole: config.sole,
            on_folder: config.data.is_folder().is_some(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            housekeeper: Housekeeper::new(config.retain),
            libsql: libsql::Settings::new(&config),
            sql: Arc::new(SqlSettings::new(&config)),
        });
        let databases = Databases::new(root.clone(), shared, config.limits.requests_per_database);
        let sql = sql::Service::new(&config.limits, &config.sql);
        Arc::new(App { config, root, databases, sql, tasks, stop })
    }

    /// Whether the server was told to stop: what waits must end.
    pub(crate) fn stopping(&self) -> bool {
        self.stop.is_cancelled()
    }
}

/// A server that listens, and does not answer yet.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    metrics: Option<(TcpListener, Arc<PrometheusHandle>)>,
}

impl Server {
    /// Opens the store, makes sure that it keeps two writers apart, and listens.
    pub async fn bind(config: Config) -> Result<Self, ServeError> {
        if config.tokens.is_none() && !config.listen.ip().is_loopback() {
            return Err(ServeError::Open { address: config.listen });
        }
        let options = StoreOptions {
            endpoint: config.endpoint.clone(),
            ..StoreOptions::new(&config.scratch)
        };
        let root = Root::create(&config.data, &options).await?;
        root.verify_conditional_put().await?;
        let listener = listen(config.listen).await?;
        let metrics = match config.metrics_listen {
            None => None,
            Some(address) => {
                let listener = listen(address).await?;
                metrics::install().map(|handle| (listener, Arc::new(handle)))
            }
        };
        let app = App::new(config, root);
        Ok(Server { app, listener, metrics })
    }

    /// Where it listens: the port is a real one.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.app.config.listen)
    }

    /// What its requests share.
    #[cfg(test)]
    pub(crate) fn app(&self) -> Arc<App> {
        Arc::clone(&self.app)
    }

    /// Where metrics are.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// Serves until `stop` returns; then finishes what is under way.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Server { app, listener, metrics } = self;
        let closing = tokio::spawn(close_idle(Arc::clone(&app)));
        let told = metrics.map(|(listener, handle)| {
            let limits = app.config.limits.clone();
            let stop = app.stop.clone();
            tokio::spawn(async move {
                connection::serve(listener, &limits, stop.cancelled_owned(), move |request| {
                    let answer = ops::metrics(&handle, request.uri().path());
                    async move { answer }
                })
                .await;
            })
        });
        let stopped = async {
            stop.await;
            app.stop.cancel();
        };
        let answering = Arc::clone(&app);
        connection::serve(listener, &app.config.limits, stopped, move |request| {
            dispatch::handle(Arc::clone(&answering), request)
        })
        .await;
        app.sql.close_idle();
        app.tasks.close();
        if tokio::time::timeout(app.config.limits.grace, app.tasks.wait()).await.is_err() {
            tracing::warn!("appends under way were cut off; their clients will ask again");
        }
        closing.abort();
        if let Some(told) = told {
            told.abort();
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })
}

async fn close_idle(app: Arc<App>) {
    let limits = &app.config.limits;
    loop {
        tokio::time::sleep(limits.idle_database.min(limits.sql_stream_idle) / 4).await;
        app.sql.expire();
        app.databases.close_idle(limits.idle_database);
    }
}
