/* A stand-in for libnvidia-ml.so.1: a truthful state machine of MIG GPUs, for tests of the real binding without a GPU.
 *
 * The state lies in a file (FAKE_NVML_STATE, or fake_nvml_use) that every process maps: like hardware it outlives whoever
 * changes it, SIGKILL included. One call at a time holds the file's lock. Every call is counted and logged, may be made to
 * fail, to stall or to kill its process, before or after its effect. Layout of the state: mirrored in __init__.py.
 *
 * The table of profiles is written from NVIDIA's listings (nvidia-smi mig -lgipp on A30, A100, H100 80GB; H200, B200, B300
 * by equal fractions, RTX PRO 6000 by the A30's), on purpose without looking at rltune's own.
 *
 * What is simpler than hardware: compute instances take any free slices of their GPU instance (only their number counts);
 * a GPU instance without a given start gets the highest free legal one, so the order of creation decides what still fits.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, RESET_REQUIRED = 16, IN_USE = 19,
       INSUFFICIENT_RESOURCES = 23, ARGUMENT_VERSION_MISMATCH = 25 };
typedef unsigned int result; /* nvmlReturn_t */
typedef uint64_t handle;     /* nvmlDevice_t, nvmlGpuInstance_t, nvmlComputeInstance_t: pointers to nothing */
#define NONE 0xFFFFFFFFu     /* NVML's "no instance" */

/* ---- What GPUs exist, and what each can be cut into -------------------------------------------------------------- */

/* enumerated: NVML_GPU_INSTANCE_PROFILE_*; id: what calls take; starts: bit per legal memory slice; media: holds the one
 * set of media engines; names: of A100-40GB, of 80 GB types, H200, B200, B300 (or of A30, RTX PRO 6000); NULL: not there. */
struct profile { unsigned enumerated, id, compute, size, starts, most, media; const char *names[5]; };

static const struct profile SEVEN[] = {
    {0x0, 19, 1, 1, 0x7F, 7, 0, {"1g.5gb", "1g.10gb", "1g.18gb", "1g.23gb", "1g.34gb"}},
    {0x1, 14, 2, 2, 0x15, 3, 0, {"2g.10gb", "2g.20gb", "2g.35gb", "2g.45gb", "2g.67gb"}},
    {0x2, 9, 3, 4, 0x11, 2, 0, {"3g.20gb", "3g.40gb", "3g.71gb", "3g.90gb", "3g.135gb"}},
    {0x3, 5, 4, 4, 0x01, 1, 0, {"4g.20gb", "4g.40gb", "4g.71gb", "4g.90gb", "4g.135gb"}},
    {0x4, 0, 7, 8, 0x01, 1, 0, {"7g.40gb", "7g.80gb", "7g.141gb", "7g.180gb", "7g.269gb"}},
    {0x7, 20, 1, 1, 0x7F, 1, 1, {"1g.5gb+me", "1g.10gb+me", "1g.18gb+me", "1g.23gb+me", "1g.34gb+me"}},
    {0x9, 15, 1, 2, 0x55, 4, 0, {"1g.10gb", "1g.20gb", "1g.35gb", "1g.45gb", "1g.67gb"}},
};
static const struct profile FOUR[] = {
    {0x0, 14, 1, 1, 0xF, 4, 0, {"1g.6gb", "1g.24gb"}},
    {0x1, 5, 2, 2, 0x5, 2, 0, {"2g.12gb", "2g.48gb"}},
    {0x3, 0, 4, 4, 0x1, 1, 0, {"4g.24gb", "4g.96gb"}},
    {0x7, 21, 1, 1, 0xF, 1, 1, {"1g.6gb+me", NULL}},
    {0x8, 6, 2, 2, 0x5, 1, 1, {"2g.12gb+me", NULL}},
};
#define ROWS(table) (unsigned)(sizeof table / sizeof *table)

struct model { const char *key, *name; unsigned pci, memory_mb, slices, column; const struct profile *table; unsigned rows; };

static const struct model MODELS[] = {
    {"A30", "NVIDIA A30", 0x20B710DE, 24576, 4, 0, FOUR, ROWS(FOUR)},
    {"A100-40GB", "NVIDIA A100-SXM4-40GB", 0x20B010DE, 40960, 8, 0, SEVEN, ROWS(SEVEN)},
    {"A100-80GB", "NVIDIA A100-SXM4-80GB", 0x20B210DE, 81920, 8, 1, SEVEN, ROWS(SEVEN)},
    {"H100-80GB", "NVIDIA H100 80GB HBM3", 0x233010DE, 81559, 8, 1, SEVEN, ROWS(SEVEN)},
    {"H200-141GB", "NVIDIA H200", 0x233510DE, 143771, 8, 2, SEVEN, ROWS(SEVEN)},
    {"B200", "NVIDIA B200", 0x290110DE, 183359, 8, 3, SEVEN, ROWS(SEVEN)},
    {"B300", "NVIDIA B300 SXM6 AC", 0x318210DE, 275040, 8, 4, SEVEN, ROWS(SEVEN)},
    {"RTX-PRO-6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition", 0x2BB510DE, 97887, 4, 1, FOUR, ROWS(FOUR)},
    {"V100", "Tesla V100-SXM2-16GB", 0x1DB110DE, 16384, 0, 0, NULL, 0}, /* no MIG at all */
};

static const char *profile_name(const struct model *model, const struct profile *profile)
{
    return profile->names[model->column];
}

/* MiB; a little less than the fraction of the GPU, as on hardware. */
static uint64_t profile_memory_mb(const struct model *model, const struct profile *profile)
{
    return (uint64_t)model->memory_mb * profile->size / model->slices - 64;
}

/* ---- The state --------------------------------------------------------------------------------------------------- */

enum { GPUS = 16, INSTANCES = 8, PROCESSES = 32, FAULTS = 16, REFUSALS = 32, LOGGED = 4096, NAME = 64 };
enum { LIST_COMPUTE = 1, LIST_GRAPHICS = 2, LIST_MPS = 4 };
enum { ERROR = 1, ERROR_AFTER, DELAY, KILL_BEFORE, KILL_AFTER, FROM_ON };

struct compute { uint32_t live, id, slices, start, generation; };
struct instance { uint32_t live, id, row, start, size, generation; char profile[24]; struct compute compute[INSTANCES]; };
struct mig { uint32_t live, gi, ci, generation; };
struct process { uint32_t live, pid, gi, ci, lists, unused; uint64_t memory; };
struct gpu {
    uint32_t model, current, pending, activation, lost, unused;
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

/* Number of a model by its key, -1 for none; its number of rows in the table of profiles. */
int fake_nvml_model(const char *key)
{
    for (unsigned i = 0; i < ROWS(MODELS); i++)
        if (!strcmp(MODELS[i].key, key))
            return (int)i;
    return -1;
}

/* ---- Every call: counted, logged, perhaps made to fail ----------------------------------------------------------- */

struct call { const char *name; result code, after; int kill_after; };

/* Kind of the fault that is due for this call (0: none); one that fired is used up, FROM_ON stays. */
static uint32_t fault_due(struct call *call, uint32_t *delay_ms)
{
    uint32_t kind = 0;
    for (struct fault *f = S->faults; f < S->faults + FAULTS; f++) {
        if (!f->kind || (*f->call && strcmp(f->call, call->name)) || (f->left > 1 && f->left--))
            continue;
        kind = f->kind, call->code = f->code, *delay_ms = f->delay_ms;
        if (kind != FROM_ON)
            f->kind = 0;
        break;
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

/* ---- Library and system ------------------------------------------------------------------------------------------ */

static result text(char *buffer, unsigned length, const char *said)
{
    NEED(buffer, INVALID_ARGUMENT);
    NEED(length > strlen(said), INSUFFICIENT_SIZE);
    strcpy(buffer, said);
    return SUCCESS;
}

NVML(nvmlInitWithFlags, (unsigned flags), (flags))
{
    NEED(!(flags & ~3u), INVALID_ARGUMENT);
    initialised++;
    return SUCCESS;
}

NVML(nvmlInit_v2, (void), ())
{
    initialised++;
    return SUCCESS;
}

NVML(nvmlShutdown, (void), ())
{
    initialised--;
    return SUCCESS;
}

const char *nvmlErrorString(result code)
{
    static char said[64]; /* not counted: it asks no driver */
    snprintf(said, sizeof said, "status %u of the stand-in", code);
    return said;
}

NVML(nvmlSystemGetDriverVersion, (char *version, unsigned length), (version, length))
{
    return text(version, length, "550.54.15");
}

NVML(nvmlSystemGetNVMLVersion, (char *version, unsigned length), (version, length))
{
    return text(version, length, "12.550.54.15");
}

NVML(nvmlSystemGetCudaDriverVersion_v2, (int *version), (version))
{
    NEED(version, INVALID_ARGUMENT);
    *version = 12040;
    return SUCCESS;
}

/* ---- Devices ----------------------------------------------------------------------------------------------------- */

NVML(nvmlDeviceGetCount_v2, (unsigned *count), (count))
{
    NEED(count, INVALID_ARGUMENT);
    *count = S->gpus;
    return SUCCESS;
}

NVML(nvmlDeviceGetHandleByIndex_v2, (unsigned index, handle *h), (index, h))
{
    NEED(h && index < S->gpus, INVALID_ARGUMENT);
    NEED(!S->gpu[index].lost, GPU_IS_LOST);
    *h = make(DEVICE, 0, index, 0, 0);
    return SUCCESS;
}

NVML(nvmlDeviceGetName, (handle h, char *name, unsigned length), (h, name, length))
{
    NEED_GPU(gpu, h);
    return text(name, length, model_of(gpu)->name);
}

NVML(nvmlDeviceGetIndex, (handle h, unsigned *index), (h, index))
{
    NEED(device(h) && index, INVALID_ARGUMENT);
    *index = h >> 56 == DEVICE ? gpu_of(h) : slot_of(h);
    return SUCCESS;
}

/* A MIG device's UUID depends on GPU and instances only: created anew, it is the same again. */
NVML(nvmlDeviceGetUUID, (handle h, char *uuid, unsigned length), (h, uuid, length))
{
    NEED(device(h), INVALID_ARGUMENT);
    NEED(!device(h)->lost, GPU_IS_LOST);
    char said[96], gpu[48];
    struct mig *mig = mig_device(h);
    snprintf(gpu, sizeof gpu, "%08x-1111-4222-8333-%012x", 0xFA4E0000u + gpu_of(h), gpu_of(h));
    if (!mig)
        snprintf(said, sizeof said, "GPU-%s", gpu);
    else if (S->old_uuid)
        snprintf(said, sizeof said, "MIG-GPU-%s/%u/%u", gpu, mig->gi, mig->ci);
    else
        snprintf(said, sizeof said, "MIG-%08x-1111-5222-8333-%06x%06x", 0xFA4E0000u + gpu_of(h), mig->gi, mig->ci);
    return text(uuid, length, said);
}

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };

NVML(nvmlDeviceGetPciInfo_v3, (handle h, struct pci *pci), (h, pci))
{
    NEED_GPU(gpu, h);
    NEED(pci, INVALID_ARGUMENT);
    *pci = (struct pci){.bus = 7 + 8 * gpu_of(h), .id = model_of(gpu)->pci, .subsystem = 0x146310DE};
    snprintf(pci->legacy, sizeof pci->legacy, "0000:%02X:00.0", pci->bus & 0xFF);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", pci->bus & 0xFF);
    return SUCCESS;
}

/* ---- Telemetry: plausible, and the same every time ------------------------------------------------------------------ */

struct memory { uint64_t total, free, used; };

NVML(nvmlDeviceGetMemoryInfo, (handle h, struct memory *memory), (h, memory))
{
    NEED_GPU(gpu, h);
    NEED(memory, INVALID_ARGUMENT);
    memory->total = (uint64_t)model_of(gpu)->memory_mb << 20;
    memory->used = 512 << 20;
    for (struct process *p = gpu->processes; p < gpu->processes + PROCESSES; p++)
        memory->used += p->live && p->memory != UINT64_MAX ? p->memory : 0;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

NVML(nvmlDeviceGetUtilizationRates, (handle h, unsigned rates[2]), (h, rates))
{
    NEED_GPU(gpu, h);
    NEED(rates, INVALID_ARGUMENT);
    NEED(!gpu->current, NOT_SUPPORTED); /* as hardware in MIG mode */
    rates[0] = 37, rates[1] = 21;
    return SUCCESS;
}

NVML(nvmlDeviceGetPowerUsage, (handle h, unsigned *milliwatts), (h, milliwatts))
{
    NEED_GPU(gpu, h);
    NEED(milliwatts, INVALID_ARGUMENT);
    *milliwatts = 61500;
    return SUCCESS;
}

NVML(nvmlDeviceGetTotalEnergyConsumption, (handle h, uint64_t *millijoules), (h, millijoules))
{
    NEED_GPU(gpu, h);
    NEED(millijoules, INVALID_ARGUMENT);
    *millijoules = 123456789012u;
    return SUCCESS;
}

struct temperature { unsigned version, sensor; int celsius; };

NVML(nvmlDeviceGetTemperatureV, (handle h, struct temperature *temperature), (h, temperature))
{
    NEED_GPU(gpu, h);
    NEED(temperature, INVALID_ARGUMENT);
    NEED(temperature->version == (sizeof *temperature | 1u << 24), ARGUMENT_VERSION_MISMATCH);
    NEED(!temperature->sensor, INVALID_ARGUMENT);
    temperature->celsius = 34;
    return SUCCESS;
}

NVML(nvmlDeviceGetTemperature, (handle h, unsigned sensor, unsigned *celsius), (h, sensor, celsius))
{
    NEED_GPU(gpu, h);
    NEED(celsius && !sensor, INVALID_ARGUMENT);
    *celsius = 33; /* one less than the newer call, so that a test sees which one answered */
    return SUCCESS;
}

/* ---- Processes --------------------------------------------------------------------------------------------------- */

struct process_info { unsigned pid; uint64_t memory; unsigned gi, ci; };

static int runs_in(const struct gpu *gpu, unsigned gi, unsigned ci)
{
    for (const struct process *p = gpu->processes; p < gpu->processes + PROCESSES; p++)
        if (p->live && (gi == NONE || p->gi == gi) && (ci == NONE || p->ci == ci))
            return 1;
    return 0;
}

static result list(handle h, unsigned which, unsigned *count, struct process_info *found)
{
    NEED(device(h) && count, INVALID_ARGUMENT);
    struct gpu *gpu = device(h);
    struct mig *mig = mig_device(h);
    NEED(!gpu->lost, GPU_IS_LOST);
    /* Of all instances together only root is told. */
    NEED(mig || !gpu->current || S->root, NO_PERMISSION);
    unsigned room = *count, n = 0;
    for (struct process *p = gpu->processes; p < gpu->processes + PROCESSES; p++) {
        if (!p->live || !(p->lists & which) || (mig && (p->gi != mig->gi || p->ci != mig->ci)))
            continue;
        if (found && n < room)
            found[n] = (struct process_info){p->pid, p->memory, p->gi, p->ci};
        n++;
    }
    *count = n;
    return n > room || (n && !found) ? INSUFFICIENT_SIZE : SUCCESS;
}

#define LISTS(name, which)                                                                                              \
    NVML(name, (handle h, unsigned *count, struct process_info *found), (h, count, found))                              \
    {                                                                                                                   \
        return list(h, which, count, found);                                                                            \
    }
LISTS(nvmlDeviceGetComputeRunningProcesses_v2, LIST_COMPUTE)
LISTS(nvmlDeviceGetComputeRunningProcesses_v3, LIST_COMPUTE)
LISTS(nvmlDeviceGetGraphicsRunningProcesses_v2, LIST_GRAPHICS)
LISTS(nvmlDeviceGetGraphicsRunningProcesses_v3, LIST_GRAPHICS)
LISTS(nvmlDeviceGetMPSComputeRunningProcesses_v2, LIST_MPS)
LISTS(nvmlDeviceGetMPSComputeRunningProcesses_v3, LIST_MPS)

/* ---- MIG mode ---------------------------------------------------------------------------------------------------- */

NVML(nvmlDeviceGetMigMode, (handle h, unsigned *current, unsigned *pending), (h, current, pending))
{
    NEED_GPU(gpu, h);
    NEED(current && pending, INVALID_ARGUMENT);
    NEED(model_of(gpu)->rows, NOT_SUPPORTED);
    *current = gpu->current, *pending = gpu->pending;
    return SUCCESS;
}

/* The answer is SUCCESS even where the mode waits for a reset: only the activation status tells. */
NVML(nvmlDeviceSetMigMode, (handle h, unsigned mode, result *activation), (h, mode, activation))
{
    NEED_GPU(gpu, h);
    NEED(activation && mode <= 1, INVALID_ARGUMENT);
    NEED(model_of(gpu)->rows, NOT_SUPPORTED);
    NEED_ROOT();
    gpu->pending = mode;
    *activation = SUCCESS;
    if (mode == gpu->current)
        return SUCCESS;
    *activation = runs_in(gpu, NONE, NONE) ? IN_USE : gpu->activation;
    if (*activation == SUCCESS) {
        gpu->current = mode;
        memset(gpu->instances, 0, sizeof gpu->instances);
        memset(gpu->mig, 0, sizeof gpu->mig);
    }
    return SUCCESS;
}

/* ---- Profiles and placements of GPU instances ---------------------------------------------------------------------- */

struct profile_info { unsigned id, p2p, slices, most, sms, copy, decoders, encoders, jpeg, ofa; uint64_t memory_mb; };
struct profile_info_v2 {
    unsigned version, id, p2p, slices, most, sms, copy, decoders, encoders, jpeg, ofa;
    uint64_t memory_mb;
    char name[96];
};
struct placement { unsigned start, size; };

static const struct profile *row_by(const struct gpu *gpu, unsigned enumerated, unsigned id)
{
    const struct model *model = model_of(gpu);
    for (const struct profile *row = model->table; row < model->table + model->rows; row++)
        if (profile_name(model, row) && (row->enumerated == enumerated || row->id == id))
            return row;
    return NULL;
}

NVML(nvmlDeviceGetGpuInstanceProfileInfo, (handle h, unsigned enumerated, struct profile_info *info), (h, enumerated, info))
{
    NEED_GPU(gpu, h);
    NEED(info && enumerated < 0x11, INVALID_ARGUMENT); /* this driver is older than the newest profiles */
    const struct profile *row = row_by(gpu, enumerated, NONE);
    NEED(row, NOT_SUPPORTED);
    *info = (struct profile_info){.id = row->id, .slices = row->compute, .most = row->most, .sms = 14 * row->compute,
        .copy = row->compute, .jpeg = row->media, .ofa = row->media, .memory_mb = profile_memory_mb(model_of(gpu), row)};
    return SUCCESS;
}

NVML(nvmlDeviceGetGpuInstanceProfileInfoV, (handle h, unsigned enumerated, struct profile_info_v2 *info),
     (h, enumerated, info))
{
    struct profile_info v1;
    NEED(info, INVALID_ARGUMENT);
    NEED(info->version == (sizeof *info | 2u << 24), ARGUMENT_VERSION_MISMATCH);
    result code = do_nvmlDeviceGetGpuInstanceProfileInfo(h, enumerated, &v1);
    NEED(code == SUCCESS, code);
    *info = (struct profile_info_v2){.version = info->version, .id = v1.id, .slices = v1.slices, .most = v1.most,
        .sms = v1.sms, .copy = v1.copy, .jpeg = v1.jpeg, .ofa = v1.ofa, .memory_mb = v1.memory_mb};
    struct gpu *gpu = device(h);
    snprintf(info->name, sizeof info->name, "MIG %s", profile_name(model_of(gpu), row_by(gpu, enumerated, NONE)));
    return SUCCESS;
}

NVML(nvmlDeviceGetGpuInstancePossiblePlacements_v2, (handle h, unsigned id, struct placement *found, unsigned *count),
     (h, id, found, count))
{
    NEED_MIG(gpu, h);
    NEED(count, INVALID_ARGUMENT);
    const struct profile *row = row_by(gpu, NONE, id);
    NEED(row, NOT_SUPPORTED);
    unsigned room = *count;
    *count = (unsigned)__builtin_popcount(row->starts);
    if (!found)
        return SUCCESS;
    NEED(room >= *count, INSUFFICIENT_SIZE);
    for (unsigned start = 0, n = 0; start < 8; start++)
        if (row->starts >> start & 1)
            found[n++] = (struct placement){start, row->size};
    return SUCCESS;
}

/* ---- GPU instances ----------------------------------------------------------------------------------------------- */

static unsigned mask(unsigned start, unsigned size) { return ((1u << size) - 1) << start; }

/* Memory slices taken; how many more of this profile other limits than slices allow: its maximum, the media engines. */
static unsigned taken(const struct gpu *gpu, const struct profile *row, unsigned *more)
{
    const struct profile *table = model_of(gpu)->table;
    unsigned slices = 0;
    *more = row->most;
    for (const struct instance *gi = gpu->instances; gi < gpu->instances + INSTANCES; gi++) {
        if (!gi->live)
            continue;
        slices |= mask(gi->start, gi->size);
        if (&table[gi->row] == row && *more)
            --*more;
        if (table[gi->row].media && row->media)
            *more = 0;
    }
    return slices;
}

/* Numbers begin where hardware's do for that size, and the lowest free one is taken: numbers come again. */
static unsigned free_number(const struct gpu *gpu, const struct profile *row)
{
    unsigned number = row->size == 8 ? 0 : row->size == 4 ? 1 : row->size == 2 ? 3 : 7;
    for (unsigned again = 1; again;) {
        again = 0;
        for (const struct instance *gi = gpu->instances; gi < gpu->instances + INSTANCES; gi++)
            again |= gi->live && gi->id == number;
        number += again;
    }
    return number;
}

static result create(struct gpu *gpu, const struct profile *row, unsigned start, handle *made)
{
    unsigned more, slices = taken(gpu, row, &more);
    NEED(more && !(slices & mask(start, row->size)), INSUFFICIENT_RESOURCES);
    for (struct instance *gi = gpu->instances; gi < gpu->instances + INSTANCES; gi++) {
        if (gi->live)
            continue;
        *gi = (struct instance){.live = 1, .id = free_number(gpu, row), .row = (uint32_t)(row - model_of(gpu)->table),
            .start = start, .size = row->size, .generation = ++S->generation};
        snprintf(gi->profile, sizeof gi->profile, "%s", profile_name(model_of(gpu), row));
        *made = gpu_instance_handle(gpu, gi);
        return SUCCESS;
    }
    return INSUFFICIENT_RESOURCES;
}

NVML(nvmlDeviceCreateGpuInstanceWithPlacement, (handle h, unsigned id, const struct placement *where, handle *made),
     (h, id, where, made))
{
    NEED_MIG(gpu, h);
    NEED(where && made, INVALID_ARGUMENT);
    NEED_ROOT();
    const struct profile *row = row_by(gpu, NONE, id);
    NEED(row, NOT_SUPPORTED);
    NEED(where->start < 8 && row->starts >> where->start & 1 && where->size == row->size, INVALID_ARGUMENT);
    return create(gpu, row, where->start, made);
}

NVML(nvmlDeviceCreateGpuInstance, (handle h, unsigned id, handle *made), (h, id, made))
{
    NEED_MIG(gpu, h);
    NEED(made, INVALID_ARGUMENT);
    NEED_ROOT();
    const struct profile *row = row_by(gpu, NONE, id);
    NEED(row, NOT_SUPPORTED);
    for (int start = 7; start >= 0; start--)
        if (row->starts >> start & 1 && create(gpu, row, (unsigned)start, made) == SUCCESS)
            return SUCCESS;
    return INSUFFICIENT_RESOURCES;
}

NVML(nvmlDeviceGetGpuInstanceRemainingCapacity, (handle h, unsigned id, unsigned *count), (h, id, count))
{
    NEED_MIG(gpu, h);
    NEED(count, INVALID_ARGUMENT);
    const struct profile *row = row_by(gpu, NONE, id);
    NEED(row, NOT_SUPPORTED);
    unsigned more, slices = taken(gpu, row, &more);
    *count = 0;
    for (unsigned start = 0; start < 8 && *count < more; start++)
        if (row->starts >> start & 1 && !(slices & mask(start, row->size))) {
            slices |= mask(start, row->size);
            ++*count;
        }
    return SUCCESS;
}

NVML(nvmlGpuInstanceDestroy, (handle h), (h))
{
    struct instance *gi = gpu_instance(h);
    NEED(gi, INVALID_ARGUMENT);
    NEED_ROOT();
    for (unsigned i = 0; i < INSTANCES; i++)
        NEED(!gi->compute[i].live, IN_USE);
    memset(gi, 0, sizeof *gi);
    return SUCCESS;
}

NVML(nvmlDeviceGetGpuInstances, (handle h, unsigned id, handle *found, unsigned *count), (h, id, found, count))
{
    NEED_MIG(gpu, h);
    NEED(found && count, INVALID_ARGUMENT);
    const struct profile *row = row_by(gpu, NONE, id);
    NEED(row, NOT_SUPPORTED);
    *count = 0; /* says how many there are; the caller's array has room for the profile's maximum */
    for (struct instance *gi = gpu->instances; gi < gpu->instances + INSTANCES; gi++)
        if (gi->live && &model_of(gpu)->table[gi->row] == row)
            found[(*count)++] = gpu_instance_handle(gpu, gi);
    return SUCCESS;
}

NVML(nvmlDeviceGetGpuInstanceById, (handle h, unsigned id, handle *found), (h, id, found))
{
    NEED_MIG(gpu, h);
    NEED(found, INVALID_ARGUMENT);
    for (struct instance *gi = gpu->instances; gi < gpu->instances + INSTANCES; gi++)
        if (gi->live && gi->id == id) {
            *found = gpu_instance_handle(gpu, gi);
            return SUCCESS;
        }
    return NOT_FOUND;
}

struct instance_info { handle device; unsigned id, profile; struct placement where; };

NVML(nvmlGpuInstanceGetInfo, (handle h, struct instance_info *info), (h, info))
{
    struct instance *gi = gpu_instance(h);
    NEED(gi && info, INVALID_ARGUMENT);
    NEED(!S->gpu[gpu_of(h)].lost, GPU_IS_LOST);
    *info = (struct instance_info){make(DEVICE, 0, gpu_of(h), 0, 0), gi->id,
        model_of(&S->gpu[gpu_of(h)])->table[gi->row].id, {gi->start, gi->size}};
    return SUCCESS;
}

/* ---- Compute instances ------------------------------------------------------------------------------------------- */

struct compute_info { unsigned id, slices, most, sms, copy, decoders, encoders, jpeg, ofa; };
struct compute_info_v2 { unsigned version, id, slices, most, sms, copy, decoders, encoders, jpeg, ofa; char name[96]; };

static const struct profile *row_of(handle h) { return &model_of(&S->gpu[gpu_of(h)])->table[gpu_instance(h)->row]; }

/* Slices of a compute-instance profile in this GPU instance, 0 where it does not exist. Numbers and enums are alike here:
 * 0 to 4 are 1, 2, 3, 4, 7 slices, 7 is the one with media engines. A 4g takes no 3, as nvidia-smi mig -lcip lists. */
static unsigned slices_of(const struct profile *row, unsigned id)
{
    static const unsigned SLICES[] = {1, 2, 3, 4, 7};
    unsigned slices = id < 5 ? SLICES[id] : id == 7 && row->media ? 1 : 0;
    return slices > row->compute || (slices == 3 && row->compute == 4) ? 0 : slices;
}

static unsigned slices_taken(const struct instance *gi)
{
    unsigned slices = 0;
    for (unsigned i = 0; i < INSTANCES; i++)
        slices += gi->compute[i].live ? gi->compute[i].slices : 0;
    return slices;
}

NVML(nvmlGpuInstanceGetComputeInstanceProfileInfo, (handle h, unsigned id, unsigned engines, struct compute_info *info),
     (h, id, engines, info))
{
    NEED(gpu_instance(h) && info && id < 9 && engines == 0, INVALID_ARGUMENT);
    unsigned slices = slices_of(row_of(h), id);
    NEED(slices, NOT_SUPPORTED);
    *info = (struct compute_info){.id = id, .slices = slices, .most = row_of(h)->compute / slices, .sms = 14 * slices};
    return SUCCESS;
}

NVML(nvmlGpuInstanceGetComputeInstanceProfileInfoV,
     (handle h, unsigned id, unsigned engines, struct compute_info_v2 *info), (h, id, engines, info))
{
    struct compute_info v1;
    NEED(info, INVALID_ARGUMENT);
    NEED(info->version == (sizeof *info | 2u << 24), ARGUMENT_VERSION_MISMATCH);
    result code = do_nvmlGpuInstanceGetComputeInstanceProfileInfo(h, id, engines, &v1);
    NEED(code == SUCCESS, code);
    *info = (struct compute_info_v2){.version = info->version, .id = v1.id, .slices = v1.slices, .most = v1.most, .sms = v1.sms};
    snprintf(info->name, sizeof info->name, "MIG %uc.%s", v1.slices, gpu_instance(h)->profile);
    return SUCCESS;
}

/* A MIG device takes the lowest free index and keeps it while others go. */
static void appear(struct gpu *gpu, unsigned gi, unsigned ci)
{
    for (struct mig *mig = gpu->mig; mig < gpu->mig + INSTANCES; mig++)
        if (!mig->live) {
            *mig = (struct mig){1, gi, ci, ++S->generation};
            return;
        }
}

NVML(nvmlGpuInstanceCreateComputeInstance, (handle h, unsigned id, handle *made), (h, id, made))
{
    struct instance *gi = gpu_instance(h);
    NEED(gi && made, INVALID_ARGUMENT);
    NEED_ROOT();
    unsigned slices = slices_of(row_of(h), id), start = slices_taken(gi), number = 0, slot = 0;
    NEED(slices, NOT_SUPPORTED);
    NEED(start + slices <= row_of(h)->compute, INSUFFICIENT_RESOURCES);
    for (unsigned i = 0; i < INSTANCES; i++) /* at most 8 numbers are taken: 8 rounds find the lowest free one */
        for (unsigned j = 0; j < INSTANCES; j++)
            number += gi->compute[j].live && gi->compute[j].id == number;
    while (gi->compute[slot].live)
        slot++;
    gi->compute[slot] = (struct compute){1, number, slices, start, ++S->generation};
    *made = make(COMPUTE_INSTANCE, gi->compute[slot].generation, gpu_of(h), slot_of(h), slot);
    appear(&S->gpu[gpu_of(h)], gi->id, number);
    return SUCCESS;
}

NVML(nvmlComputeInstanceDestroy, (handle h), (h))
{
    struct compute *ci = compute_instance(h);
    NEED(ci, INVALID_ARGUMENT);
    NEED_ROOT();
    struct gpu *gpu = &S->gpu[gpu_of(h)];
    unsigned gi = gpu->instances[slot_of(h)].id;
    NEED(!runs_in(gpu, gi, ci->id), IN_USE);
    for (struct mig *mig = gpu->mig; mig < gpu->mig + INSTANCES; mig++)
        if (mig->live && mig->gi == gi && mig->ci == ci->id)
            memset(mig, 0, sizeof *mig);
    memset(ci, 0, sizeof *ci);
    return SUCCESS;
}

/* The profile with media engines lists what the plain one of one slice lists: callers must not count twice. */
NVML(nvmlGpuInstanceGetComputeInstances, (handle h, unsigned id, handle *found, unsigned *count), (h, id, found, count))
{
    struct instance *gi = gpu_instance(h);
    NEED(gi && found && count, INVALID_ARGUMENT);
    unsigned slices = slices_of(row_of(h), id);
    NEED(slices, NOT_SUPPORTED);
    *count = 0;
    for (unsigned i = 0; i < INSTANCES; i++)
        if (gi->compute[i].live && gi->compute[i].slices == slices)
            found[(*count)++] = make(COMPUTE_INSTANCE, gi->compute[i].generation, gpu_of(h), slot_of(h), i);
    return SUCCESS;
}

NVML(nvmlGpuInstanceGetComputeInstanceById, (handle h, unsigned id, handle *found), (h, id, found))
{
    struct instance *gi = gpu_instance(h);
    NEED(gi && found, INVALID_ARGUMENT);
    for (unsigned i = 0; i < INSTANCES; i++)
        if (gi->compute[i].live && gi->compute[i].id == id) {
            *found = make(COMPUTE_INSTANCE, gi->compute[i].generation, gpu_of(h), slot_of(h), i);
            return SUCCESS;
        }
    return NOT_FOUND;
}

struct compute_instance_info { handle device, gpu_instance; unsigned id, profile; struct placement where; };

NVML(nvmlComputeInstanceGetInfo_v2, (handle h, struct compute_instance_info *info), (h, info))
{
    struct compute *ci = compute_instance(h);
    NEED(ci && info, INVALID_ARGUMENT);
    struct gpu *gpu = &S->gpu[gpu_of(h)];
    NEED(!gpu->lost, GPU_IS_LOST);
    *info = (struct compute_instance_info){make(DEVICE, 0, gpu_of(h), 0, 0),
        gpu_instance_handle(gpu, &gpu->instances[slot_of(h)]), ci->id, ci->slices == 7 ? 4 : ci->slices - 1,
        {ci->start, ci->slices}};
    return SUCCESS;
}

/* ---- MIG devices: what jobs run on ------------------------------------------------------------------------------- */

NVML(nvmlDeviceGetMaxMigDeviceCount, (handle h, unsigned *count), (h, count))
{
    NEED_GPU(gpu, h);
    NEED(count, INVALID_ARGUMENT);
    *count = !gpu->current ? 0 : model_of(gpu)->slices == 4 ? 4 : 7;
    return SUCCESS;
}

NVML(nvmlDeviceGetMigDeviceHandleByIndex, (handle h, unsigned index, handle *found), (h, index, found))
{
    NEED_MIG(gpu, h);
    NEED(found && index < INSTANCES, INVALID_ARGUMENT);
    NEED(gpu->mig[index].live, NOT_FOUND);
    *found = make(MIG_DEVICE, gpu->mig[index].generation, gpu_of(h), index, 0);
    return SUCCESS;
}

NVML(nvmlDeviceIsMigDeviceHandle, (handle h, unsigned *is), (h, is))
{
    NEED(device(h) && is, INVALID_ARGUMENT);
    *is = h >> 56 == MIG_DEVICE;
    return SUCCESS;
}

NVML(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, (handle h, handle *parent), (h, parent))
{
    NEED(mig_device(h) && parent, INVALID_ARGUMENT);
    *parent = make(DEVICE, 0, gpu_of(h), 0, 0);
    return SUCCESS;
}

NVML(nvmlDeviceGetGpuInstanceId, (handle h, unsigned *id), (h, id))
{
    NEED(mig_device(h) && id, INVALID_ARGUMENT);
    *id = mig_device(h)->gi;
    return SUCCESS;
}

NVML(nvmlDeviceGetComputeInstanceId, (handle h, unsigned *id), (h, id))
{
    NEED(mig_device(h) && id, INVALID_ARGUMENT);
    *id = mig_device(h)->ci;
    return SUCCESS;
}
