/*
 * IoT Hub's side, as far as aziot-identityd asks for it: the modules of one device. Which hub is meant says
 * the Host header; a hub is a name, and every name is served: one without the device refuses like any other.
 */
#include <errno.h>
#include <stdlib.h>
#include <strings.h>

#include "emulator.h"
#include "sas.h"

#define MODULE_ID_MAX 128
#define MODULES_MAX   50 /* IoT Hub's limit */

static void unauthorized(Response *response, const char *why) {
        response_hub_error(response, 401, "IotHubUnauthorizedAccess", "Unauthorized");
        (void) string_replace(&response->error, why);
}

/* "{hub}/devices/{device}", or below it the module that the request is about; any spelling and case. */
static bool resource_fits(const char *resource, const Device *device, const Request *request) {
        CLEANUP(freep) char *hub = strndup(resource, strcspn(resource, "/"));
        CLEANUP(freep) char *rest = NULL;
        size_t size;

        if (!hub || !host_equal(hub, device->hub))
                return false;
        if (asprintf(&rest, "/devices/%s", device->device_id) < 0) {
                rest = NULL;
                return false;
        }
        size = strlen(rest);
        resource += strlen(hub);
        if (strncasecmp(resource, rest, size) != 0)
                return false;
        resource += size;
        if (resource[0] == '\0' || strcasecmp(resource, "/modules") == 0)
                return true;
        return request->n_segments == 4 && strncasecmp(resource, "/modules/", strlen("/modules/")) == 0 &&
               strcasecmp(resource + strlen("/modules/"), request->segments[3]) == 0;
}

/* The device whose key signed the request's token, or NULL: answered. An unknown device looks like a wrong
 * key. */
static Device *authorize(Emulator *emulator, const Request *request, Response *response) {
        CLEANUP(sas_deinit) SasToken token = {};
        CLEANUP(freep) char *resource = NULL;
        const char *why = "the request has no token";
        Device *device = NULL;

        if (!request->authorization || sas_parse(&token, request->authorization, &why) < 0) {
                unauthorized(response, why);
                return NULL;
        }
        resource = sas_resource(&token);
        why = "this hub has no such device";
        while ((device = registry_next_at_hub(emulator->registry, request->host ? request->host : "",
                                              request->segments[1], device))) {
                if (!resource || !resource_fits(resource, device, request)) {
                        why = "the token is for another resource";
                        continue;
                }
                if (sas_verify(&token, device->key, sizeof(device->key), (uint64_t) emulator_now(emulator),
                               &why) == 0) {
                        response->authorized = true;
                        return device;
                }
        }
        unauthorized(response, why);
        return NULL;
}

static void list_modules(const Device *device, Response *response) {
        json_object *list = json_object_new_array();

        json_object_object_foreach(device->modules, name, module) {
                (void) name;
                if (json_object_array_add(list, json_object_get(module)) < 0)
                        json_object_put(module);
        }
        response_json(response, 200, list);
}

static void save(Emulator *emulator, Response *response) {
        int r = registry_save(emulator->registry);

        if (r < 0)
                response_hub_error(response, 500, "ServerError", "The registry can't be written: %s",
                                   strerror(-r));
}

/* PUT creates; with If-Match it updates, and keeps what the body leaves out. */
static void put_module(Emulator *emulator, const Request *request, Device *device, Response *response) {
        const char *id = request->segments[3],
                   *body_id = json_string(request->body, "moduleId", MODULE_ID_MAX);
        const char *managed_by = json_string(request->body, "managedBy", MODULE_ID_MAX);
        json_object *old = NULL, *authentication = NULL, *module;

        if (!body_id || !streq(body_id, id)) {
                response_hub_error(response, 400, "ArgumentInvalid",
                                   "The body's moduleId is missing or not the one in the path");
                return;
        }
        (void) json_object_object_get_ex(device->modules, id, &old);
        if (old && !request->if_match) {
                response_hub_error(response, 409, "ModuleAlreadyExistsOnDevice", "The module '%s' exists",
                                   id);
                return;
        }
        if (!old && request->if_match) {
                response_hub_error(response, 404, "ModuleNotFound", "There is no module '%s'", id);
                return;
        }
        if (!old && json_object_object_length(device->modules) >= MODULES_MAX) {
                response_hub_error(response, 403, "DeviceMaximumModulesExceeded",
                                   "The device has %d modules", MODULES_MAX);
                return;
        }
        if ((!json_object_object_get_ex(request->body, "authentication", &authentication) ||
             !authentication) &&
            old)
                (void) json_object_object_get_ex(old, "authentication", &authentication);
        if (!managed_by && old)
                managed_by = json_string(old, "managedBy", MODULE_ID_MAX);

        module = registry_new_module(device, id, managed_by, json_object_get(authentication));
        if (old) {
                const char *generation = json_string(old, "generationId", 32);

                json_add_string(module, "generationId", generation ? generation : "");
        }
        json_add(device->modules, id, json_object_get(module));
        response_json(response, 200, module);
        save(emulator, response);
}

static void delete_module(Emulator *emulator, const char *id, Device *device, Response *response) {
        if (!json_object_object_get_ex(device->modules, id, NULL)) {
                response_hub_error(response, 404, "ModuleNotFound", "There is no module '%s'", id);
                return;
        }
        if (streq(id, "$edgeAgent") || streq(id, "$edgeHub")) {
                response_hub_error(response, 400, "InvalidOperation", "The module '%s' can't be deleted",
                                   id);
                return;
        }
        json_object_object_del(device->modules, id);
        response_json(response, 204, NULL);
        save(emulator, response);
}

static bool module_id_valid(const char *id) {
        return chars_valid(id,
                           "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-:.+%_#*?!(),=@$'",
                           1, MODULE_ID_MAX);
}

static void answer_module(Emulator *emulator, const Request *request, Device *device, Response *response) {
        const char *id = request->segments[3];
        json_object *module = NULL;

        if (!module_id_valid(id))
                response_hub_error(response, 400, "ArgumentInvalid", "The module ID is not valid");
        else if (streq(request->method, "PUT"))
                put_module(emulator, request, device, response);
        else if (streq(request->method, "DELETE"))
                delete_module(emulator, id, device, response);
        else if (!streq(request->method, "GET"))
                response_hub_error(response, 405, "MethodNotAllowed", "Only GET, PUT and DELETE");
        else if (!json_object_object_get_ex(device->modules, id, &module))
                response_hub_error(response, 404, "ModuleNotFound", "There is no module '%s'", id);
        else
                response_json(response, 200, json_object_get(module));
}

void hub_answer(Emulator *emulator, const Request *request, Response *response) {
        const Fault *fault = faults_use(emulator->faults, FAULT_STATUS, REQUEST_HUB);
        bool modules = request->n_segments >= 3 && request->n_segments <= 4 &&
                       streq(request->segments[2], "modules");
        Device *device;

        (void) string_replace(&response->hub, request->host ? request->host : "");
        (void) string_replace(&response->device_id, request->segments[1]);
        if (fault) {
                response_hub_error(response, (unsigned) fault->number, "MadeByAFault", "Made by a fault");
                return;
        }
        device = authorize(emulator, request, response);
        if (!device)
                return;
        (void) string_replace(&response->registration_id, device->registration_id);

        if (!modules)
                response_hub_error(response, 404, "NotFound", "Only a device's modules are served here");
        else if (request->n_segments == 4)
                answer_module(emulator, request, device, response);
        else if (streq(request->method, "GET"))
                list_modules(device, response);
        else
                response_hub_error(response, 405, "MethodNotAllowed", "Only GET");
}
