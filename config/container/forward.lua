-- Every MR series goes to the node; results are no MR, so nothing goes round in a circle.
function OnStableSeries(seriesId, tags, metadata)
  if tags['Modality'] == 'MR' then
    RestApiPost('/modalities/dicomnode/store', DumpJson({ Resources = { seriesId }, Synchronous = false }, true))
  end
end
