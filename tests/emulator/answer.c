/* Chooses DPS or IoT Hub for a request, and answers the requests that are for neither. */
#include "emulator.h"

void emulator_answer(Emulator *emulator, const Request *request, Response *response) {
        if (request->too_large)
                response_dps_error(response, 413, 413000, emulator_now(emulator), "The body is too large");
        else if (request->n_segments == 0 || request->kind == REQUEST_OTHER)
                response_dps_error(response, 404, 404000, emulator_now(emulator), "Resource not found");
        else if (request->kind == REQUEST_HUB) /* a device's messages, for one, need not be JSON */
                hub_answer(emulator, request, response);
        else if (request->has_body && !request->body)
                response_dps_error(response, 400, 400004, emulator_now(emulator), "The body is not JSON");
        else
                service_answer(emulator, request, response);
}
