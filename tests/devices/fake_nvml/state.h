/* The state in its file, what happens around every call, and handles. */

/* ---- The state --------------------------------------------------------------------------------------------------- */

enum { GPUS = 16, INSTANCES = 8, PROCESSES = 32, FAULTS = 16, REFUSALS = 32, LOGGED = 4096, NAME = 64 };
enum { LIST_COMPUTE = 1, LIST_GRAPHICS = 2, LIST_MPS = 4 };
enum { ERROR = 1, ERROR_AFTER, DELAY, KILL_BEFORE, KILL_AFTER, FROM_ON };

struct compute { uint32_t live, id, slices, start, generation; };
struct instance { uint32_t live, id, row, start, size, generation; char profile[24]; struct compute compute[INSTANCES]; };
struct mig { uint32_t live, gi, ci, generation; };
struct process { uint32_t live, pid, gi, ci, lists, unused; uint64_t memory; };
struct gpu {
    uint32_t model, current, pending, activation, lost, serial; /* serial: of the card, from which UUIDs follow */
    uint32_t resets, unused;
    struct instance instances[INSTANCES];
    struct mig mig[INSTANCES];
    struct process processes[PROCESSES];
};
struct fault { uint32_t kind, left, code, delay_ms; char call[NAME]; };
struct refusal { uint32_t code; char call[NAME]; };
struct state {
    uint32_t gpus, root, old_uuid, generation, calls, unused;
    struct gpu gpu[GPUS];
    struct fault faults[FAULTS];
    struct refusal refusals[REFUSALS];
    char log[LOGGED][NAME];
};

static struct state *S;       /* mapped; NULL: there is no driver */
static char path[4096];       /* of the state; empty: none */
static int chosen;            /* fake_nvml_use was called: the environment no longer counts */
static int descriptor = -1;   /* whose lock serialises processes */
static pid_t opened_by;       /* a lock is shared across fork, so a child opens the file anew */
static unsigned initialised;  /* nvmlInit minus nvmlShutdown of this process */
static pthread_mutex_t threads = PTHREAD_MUTEX_INITIALIZER;

static void open_state(void)
{
    if (!chosen) {
        const char *named = getenv("FAKE_NVML_STATE");
        snprintf(path, sizeof path, "%s", named ? named : "");
        chosen = 1;
    }
    if (!*path || (S && opened_by == getpid()))
        return;
    if (descriptor >= 0)
        close(descriptor);
    descriptor = open(path, O_RDWR | O_CLOEXEC);
    opened_by = getpid();
    if (descriptor < 0 || S)
        return;
    void *mapped = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    S = mapped == MAP_FAILED ? NULL : mapped;
}

static void lock(void)
{
    pthread_mutex_lock(&threads);
    open_state();
    if (S)
        flock(descriptor, LOCK_EX);
}

static void unlock(void)
{
    if (S)
        flock(descriptor, LOCK_UN);
    pthread_mutex_unlock(&threads);
}

/* Control, not NVML: the state's file from now on; NULL: none, as on a machine without a driver. */
void fake_nvml_use(const char *file)
{
    pthread_mutex_lock(&threads);
    if (S)
        munmap(S, sizeof *S);
    if (descriptor >= 0)
        close(descriptor);
    S = NULL, descriptor = -1, initialised = 0, chosen = 1;
    snprintf(path, sizeof path, "%s", file ? file : "");
    pthread_mutex_unlock(&threads);
}

unsigned fake_nvml_state_bytes(void) { return sizeof(struct state); }

/* Number of a model by its key, -1 for none. */
int fake_nvml_model(const char *key)
{
    for (unsigned i = 0; i < ROWS(MODELS); i++)
        if (!strcmp(MODELS[i].key, key))
            return (int)i;
    return -1;
}

/* ---- Every call: counted, logged, perhaps made to fail ----------------------------------------------------------- */

struct call { const char *name; result code, after; int kill_after; };

/* Kind of the fault that hits this call (0: none). All that match count it; of several that are due the first hits, the
 * others wait for the next call. One that hit is used up, FROM_ON stays. */
static uint32_t fault_due(struct call *call, uint32_t *delay_ms)
{
    uint32_t kind = 0;
    for (struct fault *f = S->faults; f < S->faults + FAULTS; f++) {
        if (!f->kind || (*f->call && strcmp(f->call, call->name)))
            continue;
        if (f->left > 1)
            f->left--;
        else if (!kind) {
            kind = f->kind, call->code = f->code, *delay_ms = f->delay_ms;
            f->kind = kind == FROM_ON ? kind : 0;
        }
    }
    return kind;
}

/* Takes the lock and says whether the call goes on; if not, call->code is its answer and the lock is free. */
static int enter(struct call *call, const char *name)
{
    uint32_t kind = 0, delay_ms = 0;
    *call = (struct call){.name = name};
    lock();
    if (!S) {
        call->code = strncmp(name, "nvmlInit", 8) ? UNINITIALIZED : DRIVER_NOT_LOADED;
        unlock();
        return 0;
    }
    snprintf(S->log[S->calls++ % LOGGED], NAME, "%s", name);
    kind = fault_due(call, &delay_ms);
    if (kind == KILL_BEFORE)
        raise(SIGKILL);
    if (kind == DELAY) { /* without the lock, lest everyone else stalls too */
        unlock();
        nanosleep(&(struct timespec){delay_ms / 1000, delay_ms % 1000 * 1000000L}, NULL);
        lock();
    }
    call->kill_after = kind == KILL_AFTER;
    call->after = kind == ERROR_AFTER ? call->code : SUCCESS;
    if (kind == ERROR || kind == FROM_ON) {
        unlock();
        return 0;
    }
    for (struct refusal *r = S->refusals; r < S->refusals + REFUSALS; r++)
        if (r->code && !strcmp(r->call, name)) {
            call->code = r->code;
            unlock();
            return 0;
        }
    if (!initialised && strncmp(name, "nvmlInit", 8)) {
        call->code = UNINITIALIZED;
        unlock();
        return 0;
    }
    return 1;
}

static result leave(struct call *call, result code)
{
    if (call->kill_after)
        raise(SIGKILL);
    unlock();
    return call->after ? call->after : code;
}

#define NVML(name, parameters, arguments)                                                                               \
    static result do_##name parameters;                                                                                 \
    result name parameters                                                                                              \
    {                                                                                                                   \
        struct call call;                                                                                               \
        return enter(&call, #name) ? leave(&call, do_##name arguments) : call.code;                                     \
    }                                                                                                                   \
    static result do_##name parameters
/* Refuse early: the condition that must hold, and the answer where it does not. */
#define NEED(condition, code)                                                                                           \
    do {                                                                                                                \
        if (!(condition))                                                                                               \
            return code;                                                                                                \
    } while (0)

/* ---- Handles: what | generation | GPU | slot | slot of the compute instance --------------------------------------- */

enum { DEVICE = 1, MIG_DEVICE, GPU_INSTANCE, COMPUTE_INSTANCE };

static handle make(unsigned what, uint32_t generation, unsigned gpu, unsigned slot, unsigned inner)
{
    return (handle)what << 56 | (handle)(generation & 0xFFFFFFu) << 24 | (handle)gpu << 16 | slot << 8 | inner;
}

static unsigned gpu_of(handle h) { return h >> 16 & 0xFF; }
static unsigned slot_of(handle h) { return h >> 8 & 0xFF; }

/* The GPU of a device's or a MIG device's handle, NULL for a stale or foreign one. */
static struct gpu *device(handle h)
{
    if ((h >> 56 != DEVICE && h >> 56 != MIG_DEVICE) || gpu_of(h) >= S->gpus || slot_of(h) >= INSTANCES)
        return NULL;
    struct gpu *gpu = &S->gpu[gpu_of(h)];
    struct mig *mig = &gpu->mig[slot_of(h)];
    if (h >> 56 == MIG_DEVICE && !(mig->live && h == make(MIG_DEVICE, mig->generation, gpu_of(h), slot_of(h), 0)))
        return NULL;
    return gpu;
}

static struct mig *mig_device(handle h) { return h >> 56 == MIG_DEVICE && device(h) ? &device(h)->mig[slot_of(h)] : NULL; }

static struct instance *gpu_instance(handle h)
{
    if (h >> 56 != GPU_INSTANCE || gpu_of(h) >= S->gpus || slot_of(h) >= INSTANCES)
        return NULL;
    struct instance *gi = &S->gpu[gpu_of(h)].instances[slot_of(h)];
    return gi->live && h == make(GPU_INSTANCE, gi->generation, gpu_of(h), slot_of(h), 0) ? gi : NULL;
}

static handle gpu_instance_handle(const struct gpu *gpu, const struct instance *gi)
{
    return make(GPU_INSTANCE, gi->generation, (unsigned)(gpu - S->gpu), (unsigned)(gi - gpu->instances), 0);
}

static struct compute *compute_instance(handle h)
{
    if (h >> 56 != COMPUTE_INSTANCE || gpu_of(h) >= S->gpus || slot_of(h) >= INSTANCES || (h & 0xFF) >= INSTANCES)
        return NULL;
    struct compute *ci = &S->gpu[gpu_of(h)].instances[slot_of(h)].compute[h & 0xFF];
    return ci->live && h == make(COMPUTE_INSTANCE, ci->generation, gpu_of(h), slot_of(h), h & 0xFF) ? ci : NULL;
}

static const struct model *model_of(const struct gpu *gpu) { return &MODELS[gpu->model]; }

/* A GPU on which MIG is on, or what to answer instead. A MIG device is no GPU. */
#define NEED_GPU(gpu, h)                                                                                                \
    struct gpu *gpu = h >> 56 == DEVICE ? device(h) : NULL;                                                             \
    NEED(gpu, INVALID_ARGUMENT);                                                                                        \
    NEED(!gpu->lost, GPU_IS_LOST)
#define NEED_MIG(gpu, h)                                                                                                \
    NEED_GPU(gpu, h);                                                                                                   \
    NEED(model_of(gpu)->rows && gpu->current, NOT_SUPPORTED)
#define NEED_ROOT() NEED(S->root, NO_PERMISSION)
