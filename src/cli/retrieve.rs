//! What a retrieval-augmented model attends to: CLIP's vector of the prompt, and the vectors of the images in a database that are
//! nearest to it.

use super::args::{RetrievalArgs, SampleArgs};
use super::console::Console;
use super::engine::Engine;
use super::stop::Stop;
use super::{device, model};
use latent_diffusion::models::config::Condition;
use latent_diffusion::pipeline::{Database, Model};
use latent_diffusion::{Error, Result, Tensor};

/// Neighbours where nothing is said, as CompVis's script has it.
const NEIGHBOURS: usize = 10;

/// The most that the authors go up to.
const MOST_NEIGHBOURS: usize = 20;

/// A CLIP text encoder, and a database.
pub struct Retriever {
    clip: Engine,
    database: Option<Database>,
}

impl Retriever {
    /// Opens what the arguments name, if `model` is one that needs it.
    ///
    /// # Errors
    /// If something that is needed is not named, cannot be read or does not fit the model.
    pub fn open(
        args: &SampleArgs,
        model: &Model,
        console: &Console,
        stop: &Stop,
    ) -> Result<Option<Self>> {
        let RetrievalArgs { database, clip } = &args.retrieval;
        if model.config.condition != Condition::Vectors {
            return match database.is_some() || clip.is_some() {
                true => Err(model.cannot(latent_diffusion::pipeline::Task::Retrieval)),
                false => Ok(None),
            };
        }
        let clip = clip.as_deref().ok_or_else(|| {
            Error::request(format!(
                "{} does not hold the text encoder that its prompts are read with: name a folder of CLIP ViT-L/14 with --clip",
                model.name
            ))
        })?;
        let database = database.as_deref().map(Database::open).transpose()?;
        if let (Some(database), Some(width)) = (&database, model.unet()?.0.context_dim) {
            database.check_width(width)?;
        }
        let clip = model::another(clip)?;
        clip.text()?;
        let device = device::open(&args.engine, console, stop)?;
        Ok(Some(Self {
            clip: Engine::new(device, clip),
            database,
        }))
    }

    /// The vectors for a prompt, its own first.
    ///
    /// # Shapes
    /// `[1 + neighbours, width]`.
    ///
    /// # Errors
    /// If there is no database to take neighbours from, or too few or too many are asked for, or the device fails.
    pub fn vectors(
        &self,
        prompt: &str,
        neighbours: Option<i64>,
        console: &Console,
    ) -> Result<Tensor> {
        let wanted = match (neighbours, &self.database) {
            (None, None) => 0,
            (None, Some(database)) => NEIGHBOURS.min(database.count()),
            (Some(count), _) => usize::try_from(count)
                .ok()
                .filter(|&count| count <= MOST_NEIGHBOURS)
                .ok_or_else(|| {
                    Error::request(format!(
                        "{count} neighbours: 0 to {MOST_NEIGHBOURS} are possible"
                    ))
                })?,
        };
        let query = self.clip.embed(prompt, &mut |event| console.event(event))?;
        let mut values = query.data().to_vec();
        let mut rows = 1;
        if wanted > 0 {
            let database = self.database.as_ref().ok_or_else(|| {
                Error::request(format!(
                    "{wanted} neighbours were asked for: name the database to find them in with --database"
                ))
            })?;
            for neighbour in self.clip.nearest(database, query.data(), wanted)? {
                values.extend_from_slice(database.row(neighbour.row));
                rows += 1;
            }
        }
        Tensor::new([rows, query.data().len()], values)
    }
}
