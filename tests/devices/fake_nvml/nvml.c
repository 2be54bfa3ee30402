/* A stand-in for libnvidia-ml.so.1: a truthful state machine of MIG GPUs, for tests of the real binding without a GPU.
 *
 * The state lies in a file (FAKE_NVML_STATE, or fake_nvml_use) that every process maps: like hardware it outlives whoever
 * changes it, SIGKILL included. One call at a time holds the file's lock. Every call is counted and logged, may be made to
 * fail, to stall or to kill its process, before or after its effect. Layout of the state: mirrored in __init__.py.
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

#include "models.h"
#include "state.h"

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
    snprintf(gpu, sizeof gpu, "%08x-1111-4222-8333-%012x", 0xFA4E0000u + device(h)->serial, device(h)->serial);
    if (!mig)
        snprintf(said, sizeof said, "GPU-%s", gpu);
    else if (S->old_uuid)
        snprintf(said, sizeof said, "MIG-GPU-%s/%u/%u", gpu, mig->gi, mig->ci);
    else
        snprintf(said, sizeof said, "MIG-%08x-1111-5222-8333-%06x%06x", 0xFA4E0000u + device(h)->serial, mig->gi, mig->ci);
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
    *millijoules = 123456789012u >> gpu->resets; /* it begins anew with a reset */
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

#include "instances.h"
