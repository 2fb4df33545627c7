"""The request bodies of the DPS service API 2021-10-01 as Microsoft documents them (Individual Enrollment: Create Or
Update, Run Bulk Operation), as JSON Schema. What only the service fills in is left out."""

TWIN = {"type": "object", "additionalProperties": True}

INDIVIDUAL_ENROLLMENT = {
    "type": "object",
    "required": ["registrationId", "attestation"],
    "additionalProperties": False,
    "properties": {
        "registrationId": {"type": "string", "pattern": r"^[A-Za-z0-9]([A-Za-z0-9:._-]{0,126}[A-Za-z0-9])?$"},
        "deviceId": {"type": "string", "minLength": 1, "maxLength": 128},
        "attestation": {
            "type": "object",
            "required": ["type"],
            "additionalProperties": False,
            "properties": {
                "type": {"enum": ["none", "tpm", "x509", "symmetricKey"]},
                "tpm": {
                    "type": "object",
                    "required": ["endorsementKey"],
                    "additionalProperties": False,
                    "properties": {
                        "endorsementKey": {"type": "string", "pattern": r"^[A-Za-z0-9+/]+={0,2}$"},
                        "storageRootKey": {"type": "string"},
                    },
                },
                "x509": {"type": "object"},
                "symmetricKey": {"type": "object"},
            },
        },
        "capabilities": {
            "type": "object",
            "required": ["iotEdge"],
            "additionalProperties": False,
            "properties": {"iotEdge": {"type": "boolean"}},
        },
        "iotHubHostName": {"type": "string"},
        "initialTwin": TWIN,
        "optionalDeviceInformation": TWIN,
        "etag": {"type": "string"},
        "provisioningStatus": {"enum": ["enabled", "disabled"]},
        "reprovisionPolicy": {
            "type": "object",
            "required": ["updateHubAssignment", "migrateDeviceData"],
            "additionalProperties": False,
            "properties": {"updateHubAssignment": {"type": "boolean"}, "migrateDeviceData": {"type": "boolean"}},
        },
        "allocationPolicy": {"enum": ["hashed", "geoLatency", "static", "custom"]},
        "iotHubs": {"type": "array", "items": {"type": "string"}},
        "customAllocationDefinition": {
            "type": "object",
            "required": ["webhookUrl", "apiVersion"],
            "additionalProperties": False,
            "properties": {"webhookUrl": {"type": "string"}, "apiVersion": {"type": "string"}},
        },
    },
}

BULK_OPERATION = {
    "type": "object",
    "required": ["enrollments", "mode"],
    "additionalProperties": False,
    "properties": {
        "mode": {"enum": ["create", "update", "updateIfMatchETag", "delete"]},
        "enrollments": {"type": "array", "minItems": 1, "maxItems": 10, "items": INDIVIDUAL_ENROLLMENT},
    },
}
