import com.fasterxml.jackson.databind.MapperFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import hyperdraw.ApiClient;
import hyperdraw.ApiException;
import hyperdraw.api.ModelsApi;
import hyperdraw.api.OpenInferenceProtocolApi;
import hyperdraw.api.PredictionApi;
import hyperdraw.api.WeightsApi;
import hyperdraw.model.ImageSpec;
import hyperdraw.model.ImagesBody;
import hyperdraw.model.InferenceParameters;
import hyperdraw.model.InferenceRequest;
import hyperdraw.model.InputTensor;
import hyperdraw.model.ModelSummary;
import hyperdraw.model.ModelsInner;
import hyperdraw.model.PredictRequest;
import hyperdraw.model.PredictionAnswer;
import hyperdraw.model.RequestedOutput;
import hyperdraw.model.SequenceModelSummary;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;
import java.util.List;

/** Calls a service by the client that OpenAPI Generator makes of its description: Call ADDRESS MODEL IMAGE. */
public final class Call {
    private static final long SEED = 1L << 40; // more than 32 bits

    private Call() {}

    public static void main(String[] arguments) throws Exception {
        String model = arguments[1];
        String image = Base64.getEncoder().encodeToString(Files.readAllBytes(Path.of(arguments[2])));
        ObjectMapper mapper = ApiClient.createDefaultObjectMapper();
        mapper.configure(MapperFeature.ALLOW_COERCION_OF_SCALARS, false); // or the label "7" becomes a number
        ApiClient client = new ApiClient().setObjectMapper(mapper);
        client.updateBaseUri(arguments[0]);
        String label = predict(client, model, image);
        describe(client, model);
        download(client, model);
        infer(client, model, image, label);
        refuse(client, model);
    }

    private static String predict(ApiClient client, String model, String image) throws ApiException {
        PredictRequest body = new PredictRequest(new ImagesBody().addImagesItem(image));
        var answer = new PredictionApi(client).predict(model, body, 10L, SEED, null, 0.9, false, null, null, null);
        check(answer.getEnsemble().getSeed() == SEED, "the seed that was sent");
        PredictionAnswer prediction = answer.getPredictions().get(0).getPredictionAnswer();
        check(prediction.getPredictionSet().getLabels().contains(prediction.getLabel()), "a set with the label");
        return prediction.getLabel();
    }

    private static void describe(ApiClient client, String model) throws ApiException {
        for (ModelsInner listed : new ModelsApi(client).getModels().getModels()) {
            Object summary = listed.getActualInstance();
            if (summary instanceof ModelSummary classifier) {
                Object input = classifier.getInput().getActualInstance();
                System.out.println(classifier.getName() + ": " + input.getClass().getSimpleName());
                check(!classifier.getName().equals(model) || input instanceof ImageSpec, "images");
            } else if (summary instanceof SequenceModelSummary writer) {
                Object input = writer.getInput().getActualInstance();
                System.out.println(writer.getName() + ": " + input.getClass().getSimpleName());
            }
        }
    }

    private static void download(ApiClient client, String model) throws Exception {
        Path file = new WeightsApi(client)
                .getWeights(model, null, null, SEED, null, 2L, null, null, null)
                .toPath();
        ByteBuffer content = ByteBuffer.wrap(Files.readAllBytes(file)).order(ByteOrder.LITTLE_ENDIAN);
        Files.delete(file);
        check(content.getLong() < content.remaining(), "a safetensors header");
        check(content.get() == '{', "a safetensors header of JSON");
    }

    private static void infer(ApiClient client, String model, String image, String label) throws ApiException {
        InputTensor tensor = new InputTensor()
                .name("encoded_images")
                .shape(List.of(1L))
                .datatype("BYTES")
                .data(List.of(image));
        InferenceRequest request = new InferenceRequest()
                .id("7")
                .parameters(new InferenceParameters().seed(SEED))
                .addInputsItem(tensor)
                .addOutputsItem(new RequestedOutput().name("label"));
        var answer = new OpenInferenceProtocolApi(client).inferTensors(model, request, null);
        check("7".equals(answer.getId()), "the id that was sent");
        check(label.equals(answer.getOutputs().get(0).getData().get(0).getActualInstance()), "the same label");
    }

    private static void refuse(ApiClient client, String model) {
        try {
            new OpenInferenceProtocolApi(client).inferTensors(model, new InferenceRequest().inputs(List.of()), null);
        } catch (ApiException error) {
            check(error.getCode() == 400, "status 400");
            return;
        }
        throw new AssertionError("a request without inputs was answered");
    }

    private static void check(boolean holds, String expected) {
        if (!holds) {
            throw new AssertionError("expected " + expected);
        }
    }
}
